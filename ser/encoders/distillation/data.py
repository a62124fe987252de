"""Crops of recordings and the teacher's hidden states for them.

In: recordings of any length and number, streamed. Out: shuffled batches of crops, `(batch, samples)`, with the
teacher's hidden states at the student's frame centres, `(layers, batch, frames, dim)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ser.audio.augment import degrade
from ser.audio.find import SUFFIXES, find_recordings
from ser.audio.load import SAMPLE_RATE_HZ, Samples, stream_audio
from ser.audio.resample import resample
from ser.encoders.chunking import FRAME_SAMPLES, normalised
from ser.encoders.distillation.student import Student
from ser.encoders.encoder import Encoder
from ser.encoders.states import WHISPER, field_and_stride
from ser.errors import AudioError, EncoderError, SettingsError

BLOCK_S = 10.0  # a recording is read and shown to the teacher in pieces of this length
STATISTICS_BLOCKS = 200  # pieces from which the scale of the teacher's layers is taken
LEVEL = 0.1  # root mean square of every piece


@dataclass(frozen=True)
class CropSettings:
    """Which crops a step sees.

    Attributes:
        batch_size: crops per step.
        crop_s: length of a crop in seconds.
        degrade: probability that the student hears a crop degraded (noise, room, ...); the teacher never does.
        speeds: factors of speed and pitch, one drawn for each piece of audio; 1 alone turns that off.
        buffer: crops from which batches are drawn.
        seed: of order, speeds and degradation.
    """

    batch_size: int = 16
    crop_s: float = 2.0
    degrade: float = 0.5
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    buffer: int = 512
    seed: int = 40

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("crop_s", 0.5), ("buffer", self.batch_size)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not 0 <= self.degrade <= 1:
            raise SettingsError(f"degrade is a probability between 0 and 1, got {self.degrade}.")
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise SettingsError(f"speeds must be factors between 0.5 and 2, got {self.speeds}.")


def find_audio(folders: Sequence[str | Path]) -> list[Path]:
    """All recordings below the folders, sorted.

    Raises:
        SettingsError: there is no such folder, or no recording in it.
    """
    found: list[Path] = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise SettingsError(f"There is no folder {folder}. Give a folder of recordings.")
        found += find_recordings(folder)
    if not found:
        raise SettingsError(f"No recordings in {', '.join(map(str, folders))} ({' '.join(SUFFIXES)}).")
    return sorted(found)


@dataclass
class Position:
    """Where in the stream of recordings a run stands."""

    epoch: int = 0
    file: int = 0


class CropStream:
    """An endless stream of crops of `files`, for a student: waveform `(samples,)` and teacher states of `layers`,
    `(layers, frames, dim)`, at the student's frame centres. It begins at `position`, which moves along.
    """

    def __init__(
        self, files: Sequence[Path], teacher: Encoder, layers: Sequence[int], student: Student,
        settings: CropSettings, position: Position,
    ) -> None:  # fmt: skip
        if max(layers) > teacher.n_layers:
            raise EncoderError(
                f"The teacher {teacher.name} has layers 0 to {teacher.n_layers}; {max(layers)} was requested."
            )
        self.files, self.teacher, self.layers = list(files), teacher, list(layers)
        self.settings, self.position, self.normalise = settings, position, student.normalise
        self.bad_files: dict[str, str] = {}
        self.crop_samples = round(settings.crop_s * SAMPLE_RATE_HZ / FRAME_SAMPLES) * FRAME_SAMPLES
        self.n_frames = (self.crop_samples - field_and_stride(student.model.config)[0]) // FRAME_SAMPLES + 1
        self.shift = (_centre(student.model.config) - _centre(teacher.model.config)) / FRAME_SAMPLES

    def states(self, samples: Samples) -> torch.Tensor:
        """The teacher's hidden states, `(layers, frames, dim)` in half precision."""
        heard = normalised(samples) if self.teacher.normalise else samples
        with torch.inference_mode():
            waveform = torch.from_numpy(heard)[None].to(self.teacher.device)
            states = self.teacher.hidden_states(waveform, self.layers)
        # Half precision ends at 65,504; a teacher's outlier dimensions stay far below it.
        return torch.cat(states).half().cpu()

    def blocks(self) -> Iterator[Samples]:
        """Pieces of audio at one level, in a new order every epoch, sped up or slowed down; moves `position`."""
        while True:
            seed = (self.settings.seed, self.position.epoch)
            order = np.random.default_rng(seed).permutation(len(self.files))
            yielded = self.position.file > 0
            while self.position.file < len(order):
                path = self.files[order[self.position.file]]
                self.position.file += 1
                rng = np.random.default_rng((*seed, self.position.file))
                try:
                    for block in stream_audio(path, BLOCK_S):
                        speed = float(rng.choice(self.settings.speeds))
                        block = resample(block, round(SAMPLE_RATE_HZ * speed), SAMPLE_RATE_HZ)
                        level = max(float(np.sqrt(np.mean(block**2))), 1e-6)
                        yielded = True
                        yield (block * (LEVEL / level)).astype(np.float32)
                except AudioError as error:
                    self.bad_files[str(path)] = str(error)
            if not yielded:
                raise SettingsError(f"None of the {len(self.files)} recordings could be read.")
            self.position.epoch, self.position.file = self.position.epoch + 1, 0

    def crops(self) -> Iterator[tuple[Samples, torch.Tensor]]:
        """Consecutive crops of each piece from a random start; a shorter piece is repeated to a crop's length."""
        rng = np.random.default_rng((self.settings.seed, self.position.epoch, self.position.file, 1))
        needed = self.crop_samples // FRAME_SAMPLES
        for block in self.blocks():
            states = self.states(block)
            whole = min(block.size // FRAME_SAMPLES, states.shape[1])
            if whole < needed // 4:
                continue
            if whole < needed:
                repeats = -(-needed // whole) + 1
                block = np.tile(block[: whole * FRAME_SAMPLES], repeats)
                states = states[:, :whole].repeat(1, repeats, 1)
                whole = needed
            first = int(rng.integers(0, (whole - needed) % needed + 1))
            for start in range(first, whole - needed + 1, needed):
                crop = block[start * FRAME_SAMPLES :][: self.crop_samples]
                yield crop, align(states, start, self.n_frames, self.shift).half()

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Shuffled batches: `(batch, samples)` and `(layers, batch, frames, dim)`."""
        rng = np.random.default_rng((self.settings.seed, self.position.epoch, self.position.file, 2))
        buffer: list[tuple[Samples, torch.Tensor]] = []
        for crop in self.crops():
            buffer.append(crop)
            if len(buffer) < self.settings.buffer:
                continue
            batch = [buffer.pop(int(rng.integers(len(buffer)))) for _ in range(self.settings.batch_size)]
            heard = torch.from_numpy(np.stack([self._heard(samples, rng) for samples, _ in batch]))
            yield heard, torch.stack([states for _, states in batch], dim=1).float()

    def _heard(self, samples: Samples, rng: np.random.Generator) -> Samples:
        if rng.random() < self.settings.degrade:
            samples = degrade(samples, rng)
        return normalised(samples) if self.normalise else samples


def _centre(config: Any) -> float:
    """Sample at the centre of frame 0; Whisper's windows are centred."""
    return 0.0 if config.model_type == WHISPER else field_and_stride(config)[0] / 2


def align(states: torch.Tensor, first_frame: int, n_frames: int, shift: float) -> torch.Tensor:
    """Teacher states at the student's frame centres: `(layers, n_frames, dim)`, by linear interpolation."""
    last = states.shape[1] - 1
    position = (torch.arange(n_frames) + first_frame + shift).clamp(0, last)
    low = position.floor().long()
    weight = (position - low).to(torch.float32)[None, :, None]
    return states[:, low].float() * (1 - weight) + states[:, (low + 1).clamp(max=last)].float() * weight


def teacher_statistics(stream: CropStream) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each teacher dimension, `(layers, 1, 1, dim)`, over the first pieces."""
    n_frames, total, squares = 0, torch.tensor(0.0), torch.tensor(0.0)
    for index, block in enumerate(stream.blocks()):
        states = stream.states(block).double()
        n_frames += states.shape[1]
        total, squares = total + states.sum(dim=1), squares + (states**2).sum(dim=1)
        if index + 1 >= STATISTICS_BLOCKS or stream.position.epoch > 0:
            break
    mean = total / n_frames
    scale = (squares / n_frames - mean**2).clamp(min=1e-6).sqrt()
    return mean.float()[:, None, None], scale.float()[:, None, None]


def files_fingerprint(files: Sequence[Path]) -> str:
    """Hash of names and sizes: enough to notice another folder, cheap on a million files."""
    text = "".join(f"{path.name} {path.stat().st_size}\n" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
