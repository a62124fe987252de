"""Layer-wise distillation (section 3.3 and equation 1 of the paper, after Chang et al. 2022).

In: a folder of unlabelled recordings and a teacher encoder. Out: a folder that `HubertModel.from_pretrained`
reads. The student learns the teacher's hidden layers through one prediction head a layer; the heads are thrown
away. Audio is streamed, so memory stays flat; a run that was killed goes on where it last saved its state.

    python -m ser distill --audio DIR --teacher DIR --teacher-layers 1,2,3 --out DIR
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from ser.augment import degrade
from ser.audio import SAMPLE_RATE_HZ, Samples, resample, stream_audio
from ser.encoder import FRAME_SAMPLES, Encoder
from ser.errors import AudioError, EncoderError, SettingsError
from ser.student import Distiller, StudentSettings

AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .opus .mp3 .aiff .aif .m4a .webm .mp4 .aac .au".split())
BLOCK_S = 10.0  # a recording is read, normalised and shown to the teacher in pieces of this length
STATISTICS_BLOCKS = 200  # pieces from which the scale of the teacher's layers is taken
LEVEL = 0.1  # root mean square at which the teacher hears everything


@dataclass(frozen=True)
class DistillSettings:
    """How to distil.

    Attributes:
        teacher_layers: hidden layers of the teacher to predict, one head each.
        cosine_weight: lambda of equation 1.
        pooled_weight: weight of the same loss on time averages; 0 is equation 1 alone.
        standardise: give every teacher dimension zero mean and unit variance first; Whisper's layers have a few
            dimensions that are a hundred times larger than the rest and would drown them.
        steps: optimiser steps.
        batch_size: crops a step.
        crop_s: length of a crop in seconds.
        learning_rate: peak, after a linear rise over the first `warmup` share of the steps, then linear to zero.
        warmup: share of the steps.
        degrade: probability that the student hears a crop with noise, a room or a changed tilt; the teacher never.
        speeds: factors of speed and pitch, one drawn for each piece of audio.
        buffer: crops from which batches are drawn.
        seed: of everything random.
    """

    teacher_layers: tuple[int, ...] = (4, 8, 12)
    cosine_weight: float = 1.0
    pooled_weight: float = 0.0
    standardise: bool = True
    steps: int = 20_000
    batch_size: int = 16
    crop_s: float = 2.0
    learning_rate: float = 1e-3
    warmup: float = 0.07
    degrade: float = 0.5
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    buffer: int = 512
    seed: int = 40

    def __post_init__(self) -> None:
        if not self.teacher_layers or min(self.teacher_layers) < 0:
            raise SettingsError(f"teacher_layers must name at least one layer, got {self.teacher_layers}.")
        if self.steps < 1 or self.batch_size < 1 or self.crop_s < 0.5 or self.buffer < self.batch_size:
            raise SettingsError(
                f"steps {self.steps}, batch_size {self.batch_size}, crop_s {self.crop_s} and buffer {self.buffer}: "
                "steps and batch_size must be at least 1, crop_s at least 0.5, buffer at least batch_size."
            )
        if not 0 <= self.degrade <= 1 or not 0 <= self.warmup < 1 or self.learning_rate <= 0:
            raise SettingsError("degrade and warmup are shares between 0 and 1; learning_rate is positive.")


def distillation_loss(prediction: torch.Tensor, target: torch.Tensor, cosine_weight: float = 1.0) -> torch.Tensor:
    """Equation 1 of the paper for one teacher layer, averaged over the batch.

    Args:
        prediction, target: `(batch, frames, dim)`.
        cosine_weight: lambda.

    Returns:
        scalar: the sum over frames of L1 / dim - lambda * log sigmoid(cosine), averaged over utterances and divided
        by the number of frames so that it does not grow with the crop.
    """
    l1 = (prediction - target).abs().mean(dim=-1)
    cosine = functional.cosine_similarity(prediction, target, dim=-1)
    return (l1 - cosine_weight * functional.logsigmoid(cosine)).mean()


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
        raise SettingsError(f"No recordings in {', '.join(map(str, folders))} ({' '.join(sorted(AUDIO_SUFFIXES))}).")
    return sorted(found)


class TeacherTargets:
    """What the teacher says of a piece of audio: `(layers, frames, dim)` half precision, cached on disk if asked."""

    def __init__(self, teacher: Encoder, layers: Sequence[int], cache: Path | None = None) -> None:
        if max(layers) > teacher.n_layers:
            raise EncoderError(f"The teacher {teacher.name} has layers 0 to {teacher.n_layers}; {max(layers)} was asked.")
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
        _save_atomically({"targets": targets.contiguous()}, path, {})
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
            conv_dim=tuple(config.conv_dim), conv_kernel=tuple(config.conv_kernel), conv_stride=tuple(config.conv_stride)
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
        self, files: Sequence[Path], targets: TeacherTargets, student: StudentSettings, settings: DistillSettings,
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
            order = np.random.default_rng((self.settings.seed, self.position.epoch)).permutation(len(self.files))
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
            for start in range(int(rng.integers(0, (whole - needed) % needed + 1)), whole - needed + 1, needed):
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
            yield torch.from_numpy(np.stack(heard)), torch.stack([target for _, target in batch], dim=1).float()

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


class Distillation:
    """One run in a folder: model, optimiser, position; saved and restored as a whole."""

    def __init__(
        self, files: Sequence[Path], teacher: Encoder, out: Path, settings: DistillSettings, student: StudentSettings,
        cache: Path | None = None,
    ) -> None:  # fmt: skip
        torch.manual_seed(settings.seed)
        self.settings, self.student, self.out = settings, student, out
        self.device = teacher.device
        self.distiller = Distiller(student, len(settings.teacher_layers), teacher.dim).to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.distiller.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.step, self.audio_s, self.elapsed_s = 0, 0.0, 0.0
        self.position = Position()
        self.bad_files: dict[str, str] = {}
        targets = TeacherTargets(teacher, settings.teacher_layers, cache)
        self.identity = {
            "settings": json.loads(json.dumps(asdict(settings))),
            "student": json.loads(json.dumps(asdict(student))),
            "teacher": {"name": teacher.name, "fingerprint": teacher.fingerprint},
            "audio": {"files": len(files), "fingerprint": _files_fingerprint(files)},
        }
        self.stream = CropStream(
            files, targets, student, settings, self.position,
            lambda path, message: self.bad_files.__setitem__(str(path), message),
        )  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        if not self._restore():
            first = CropStream(files, targets, student, settings, Position())
            self.statistics = {key: value.to(self.device) for key, value in target_statistics(first).items()}

    def run(self, report: Callable[[dict[str, Any]], None], save_every_s: float = 60.0) -> None:
        """Train to the last step; `report` gets a line of figures every 20 steps."""
        saved = begun = time.monotonic()
        before_s = self.elapsed_s
        self.distiller.train()
        for waveforms, targets in self.stream.batches():
            if self.step >= self.settings.steps:
                break
            losses = self._step(waveforms.to(self.device), targets.to(self.device))
            now = time.monotonic()
            self.elapsed_s = before_s + now - begun
            if self.step % 20 == 0 or self.step == self.settings.steps:
                report(self._line(losses))
            if now - saved > save_every_s:
                self.save()
                saved = now
        self.save()
        self.export()

    def _step(self, waveforms: torch.Tensor, targets: torch.Tensor) -> list[float]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * schedule(self.step, self.settings)
        if self.settings.standardise:
            targets = (targets - self.statistics["mean"]) / self.statistics["scale"]
        predictions = self.distiller(waveforms)
        losses = []
        for prediction, target in zip(predictions, targets, strict=True):
            loss = distillation_loss(prediction, target, self.settings.cosine_weight)
            if self.settings.pooled_weight:
                pooled = distillation_loss(
                    prediction.mean(1, keepdim=True), target.mean(1, keepdim=True), self.settings.cosine_weight
                )
                loss = loss + self.settings.pooled_weight * pooled
            losses.append(loss)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.distiller.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self.audio_s += waveforms.numel() / SAMPLE_RATE_HZ
        return [float(loss.detach()) for loss in losses]

    def _line(self, losses: list[float]) -> dict[str, Any]:
        left_s = self.elapsed_s / self.step * (self.settings.steps - self.step)
        return {
            "step": self.step,
            "of": self.settings.steps,
            "loss": [round(loss, 4) for loss in losses],
            "epoch": self.position.epoch,
            "audio_h": round(self.audio_s / 3600, 3),
            "elapsed_s": round(self.elapsed_s, 1),
            "left_s": round(left_s, 1),
        }

    def save(self) -> None:
        """Write everything that a later process needs to go on, as one file, atomically."""
        tensors = {f"model.{key}": value for key, value in self.distiller.state_dict().items()}
        tensors |= {f"statistics.{key}": value for key, value in self.statistics.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value for key, value in state.items()}
        progress = {
            "step": self.step, "audio_s": self.audio_s, "elapsed_s": self.elapsed_s,
            "epoch": self.position.epoch, "file": self.position.file, "bad_files": self.bad_files,
        }  # fmt: skip
        metadata = {"progress": json.dumps(progress), "identity": json.dumps(self.identity)}
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        _save_atomically(tensors, self.out / "state.safetensors", metadata)

    def _restore(self) -> bool:
        path = self.out / "state.safetensors"
        if not path.exists():
            return False
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            identity, progress = json.loads(metadata["identity"]), json.loads(metadata["progress"])
        except Exception as error:
            raise SettingsError(f"{path} is damaged ({error}). Delete it to begin anew.") from error
        if identity != self.identity:
            other = [key for key in self.identity if identity.get(key) != self.identity[key]]
            raise SettingsError(
                f"{self.out} holds a run with other {', '.join(other)}. Choose another --out, or delete that folder."
            )
        self.distiller.load_state_dict(_part(tensors, "model."))
        self.statistics = {key: value.to(self.device) for key, value in _part(tensors, "statistics.").items()}
        state = self.optimiser.state_dict()
        for key, value in _part(tensors, "optimiser.").items():
            index, name = key.split(".", 1)
            state["state"].setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(state)
        self.step, self.audio_s = progress["step"], progress["audio_s"]
        self.elapsed_s, self.bad_files = progress["elapsed_s"], progress["bad_files"]
        self.position.epoch, self.position.file = progress["epoch"], progress["file"]
        return True

    def export(self) -> None:
        """Write the student without its heads: what `HubertModel.from_pretrained` reads, half precision."""
        state = {key: value.detach().half() for key, value in self.distiller.student.state_dict().items()}
        folder = self.out / "encoder"
        self.distiller.student.save_pretrained(folder, state_dict=state)
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = "float16"
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        preprocessor = {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "feature_size": 1,
            "padding_side": "right", "padding_value": 0.0, "return_attention_mask": False,
            "sampling_rate": SAMPLE_RATE_HZ,
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
        done = {**self.identity, "steps": self.step, "audio_h": self.audio_s / 3600, "elapsed_s": self.elapsed_s}
        (folder / "distillation.json").write_text(json.dumps(done, indent=2) + "\n")


def schedule(step: int, settings: DistillSettings) -> float:
    """Share of the peak learning rate: a linear rise, then linear to zero."""
    rise = max(1, round(settings.warmup * settings.steps))
    if step < rise:
        return (step + 1) / rise
    return max(0.0, (settings.steps - step) / max(1, settings.steps - rise))


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _files_fingerprint(files: Sequence[Path]) -> str:
    """Of names and sizes: enough to notice another folder, cheap on a million files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def _save_atomically(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, path)


FloatArray = NDArray[np.float32]
