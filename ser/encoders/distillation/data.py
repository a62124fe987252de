"""What a distillation learns from: crops of recordings and what the teacher says of them.

In: recordings of any length and number, streamed. Out: shuffled batches of crops, `(batch, samples)`, with the
teacher's hidden states at the student's frame centres, `(layers, batch, frames, dim)`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ser.audio.augment import degrade
from ser.audio.load import SAMPLE_RATE_HZ, Samples, resample, stream_audio
from ser.encoders.distillation.student import StudentSettings
from ser.encoders.encoder import FRAME_SAMPLES, Encoder
from ser.errors import AudioError, EncoderError, SettingsError

AUDIO_SUFFIXES = frozenset(
    (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".m4a", ".webm", ".mp4", ".aac", ".au")
)
BLOCK_S = 10.0  # a recording is read, normalised and shown to the teacher in pieces of this length
STATISTICS_BLOCKS = 200  # pieces from which the scale of the teacher's layers is taken
LEVEL = 0.1  # root mean square at which the teacher hears everything


@dataclass(frozen=True)
class CropSettings:
    """Which crops a step sees.

    Attributes:
        batch_size: crops a step.
        crop_s: length of a crop in seconds.
        degrade: probability that the student hears a crop with noise, a room or a changed tilt; the teacher never.
        speeds: factors of speed and pitch, one drawn for each piece of audio.
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
        if self.batch_size < 1 or self.crop_s < 0.5 or self.buffer < self.batch_size:
            raise SettingsError(
                f"batch_size {self.batch_size} must be at least 1, crop_s {self.crop_s} at least 0.5, "
                f"buffer {self.buffer} at least batch_size."
            )
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
        found += [path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES]
    if not found:
        raise SettingsError(
            f"No recordings in {', '.join(map(str, folders))} ({' '.join(sorted(AUDIO_SUFFIXES))})."
        )
    return sorted(found)


class TeacherTargets:
    """What the teacher says of a piece of audio: `(layers, frames, dim)` half precision, cached on disk if asked."""

    def __init__(self, teacher: Encoder, layers: Sequence[int], cache: Path | None = None) -> None:
        if max(layers) > teacher.n_layers:
            raise EncoderError(
                f"The teacher {teacher.name} has layers 0 to {teacher.n_layers}; {max(layers)} was asked."
            )
        self.teacher, self.layers, self.cache = teacher, list(layers), cache
        self.key = f"{teacher.fingerprint} {self.layers}"
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)

    def __call__(self, samples: Samples) -> torch.Tensor:
        if self.cache is None:
            return self._ask(samples)
        digest = hashlib.sha256(self.key.encode() + samples.tobytes()).hexdigest()
        path = self.cache / digest[:2] / f"{digest[:32]}.safetensors"
        if path.exists():
            try:
                return load_file(path)["targets"]
            except Exception:  # a damaged cache entry is computed anew, whatever is wrong with it
                path.unlink(missing_ok=True)
        targets = self._ask(samples)
        path.parent.mkdir(exist_ok=True)
        save_tensors({"targets": targets.contiguous()}, path)
        return targets

    def _ask(self, samples: Samples) -> torch.Tensor:
        heard = samples * (LEVEL / max(float(np.sqrt(np.mean(samples**2))), 1e-6))
        if self.teacher.normalise:
            heard = (heard - heard.mean()) / np.sqrt(heard.var() + 1e-7)
        with torch.inference_mode():
            waveform = torch.from_numpy(heard.astype(np.float32))[None].to(self.teacher.device)
            states = self.teacher.hidden_states(waveform, self.layers)
        # Half precision ends at 65,504; a teacher's outlier dimensions stay far below it.
        return torch.cat(states).half().cpu()

    @property
    def offset_samples(self) -> float:
        """Where the centre of frame 0 lies: 0 for Whisper's centred windows, half a receptive field otherwise."""
        config: Any = self.teacher.model.config
        if not hasattr(config, "conv_kernel"):
            return 0.0
        shape = StudentSettings(
            conv_dim=tuple(config.conv_dim),
            conv_kernel=tuple(config.conv_kernel),
            conv_stride=tuple(config.conv_stride),
        )
        return shape.receptive_samples / 2


def align(targets: torch.Tensor, first_frame: int, n_frames: int, shift: float) -> torch.Tensor:
    """Teacher states at the student's frame centres: `(layers, n_frames, dim)`, by linear interpolation."""
    position = torch.arange(n_frames) + first_frame + shift
    position = position.clamp(0, targets.shape[1] - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=targets.shape[1] - 1)
    weight = (position - low).to(torch.float32)[None, :, None]
    return targets[:, low].float() * (1 - weight) + targets[:, high].float() * weight


@dataclass
class Position:
    """Where in the stream of recordings a run stands."""

    epoch: int = 0
    file: int = 0


class CropStream:
    """An endless stream of crops: waveform `(samples,)` and teacher states `(layers, frames, dim)`."""

    def __init__(
        self, files: Sequence[Path], targets: TeacherTargets, student: StudentSettings, settings: CropSettings,
        position: Position, on_bad_file: Callable[[Path, str], None] = lambda path, message: None,
    ) -> None:  # fmt: skip
        self.files, self.targets, self.settings, self.position = list(files), targets, settings, position
        self.on_bad_file = on_bad_file
        self.crop_samples = round(settings.crop_s * SAMPLE_RATE_HZ / FRAME_SAMPLES) * FRAME_SAMPLES
        self.n_frames = (self.crop_samples - student.receptive_samples) // FRAME_SAMPLES + 1
        self.shift = (student.receptive_samples / 2 - targets.offset_samples) / FRAME_SAMPLES

    def blocks(self) -> Iterator[Samples]:
        """Pieces of audio in a new order every epoch, sped up or slowed down; moves `position`."""
        while True:
            order = np.random.default_rng((self.settings.seed, self.position.epoch)).permutation(
                len(self.files)
            )
            yielded = self.position.file > 0
            while self.position.file < len(order):
                path = self.files[order[self.position.file]]
                self.position.file += 1
                rng = np.random.default_rng((self.settings.seed, self.position.epoch, self.position.file))
                try:
                    for block in stream_audio(path, BLOCK_S):
                        speed = float(rng.choice(self.settings.speeds))
                        yielded = True
                        yield resample(block, round(SAMPLE_RATE_HZ * speed), SAMPLE_RATE_HZ)
                except AudioError as error:
                    self.on_bad_file(path, str(error))
            if not yielded:
                raise SettingsError(f"None of the {len(self.files)} recordings could be read.")
            self.position.epoch, self.position.file = self.position.epoch + 1, 0

    def crops(self) -> Iterator[tuple[Samples, torch.Tensor]]:
        rng = np.random.default_rng((self.settings.seed, self.position.epoch, self.position.file, 1))
        for block in self.blocks():
            targets = self.targets(block)
            whole = min(block.size // FRAME_SAMPLES, targets.shape[1])
            needed = self.crop_samples // FRAME_SAMPLES
            if whole < needed // 4:
                continue
            if whole < needed:  # a short utterance is repeated, sound and targets alike
                repeats = -(-needed // whole) + 1
                block = np.tile(block[: whole * FRAME_SAMPLES], repeats)
                targets = targets[:, :whole].repeat(1, repeats, 1)
                whole = needed
            for start in range(
                int(rng.integers(0, (whole - needed) % needed + 1)), whole - needed + 1, needed
            ):
                crop = block[start * FRAME_SAMPLES :][: self.crop_samples]
                yield crop, align(targets, start, self.n_frames, self.shift).half()

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Shuffled batches: `(batch, samples)` and `(layers, batch, frames, dim)`."""
        rng = np.random.default_rng((self.settings.seed, self.position.epoch, self.position.file, 2))
        buffer: list[tuple[Samples, torch.Tensor]] = []
        for crop in self.crops():
            buffer.append(crop)
            if len(buffer) < self.settings.buffer:
                continue
            batch = [buffer.pop(int(rng.integers(len(buffer)))) for _ in range(self.settings.batch_size)]
            heard = [self._degraded(samples, rng) for samples, _ in batch]
            yield (
                torch.from_numpy(np.stack(heard)),
                torch.stack([target for _, target in batch], dim=1).float(),
            )

    def _degraded(self, samples: Samples, rng: np.random.Generator) -> Samples:
        if rng.random() < self.settings.degrade:
            samples = degrade(samples, rng)
        return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)


def target_statistics(stream: CropStream) -> dict[str, torch.Tensor]:
    """Mean and standard deviation of each teacher dimension, `(layers, 1, 1, dim)`, over the first pieces."""
    states = []
    for index, block in enumerate(stream.blocks()):
        states.append(stream.targets(block).float())
        if index + 1 >= STATISTICS_BLOCKS or stream.position.epoch > 0:
            break
    frames = torch.cat(states, dim=1)
    return {
        "mean": frames.mean(dim=1)[:, None, None],
        "scale": frames.std(dim=1).clamp(min=1e-3)[:, None, None],
    }


def files_fingerprint(files: Sequence[Path]) -> str:
    """Of names and sizes: enough to notice another folder, cheap on a million files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def save_tensors(
    tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file that appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata=metadata)
    temporary.replace(path)
