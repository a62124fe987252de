"""Layer-wise distillation (section 3.3 and equation 1 of the paper, after Chang et al. 2022).

In: a folder of unlabelled recordings, a teacher encoder and a student. Out: a folder that `Encoder.load` reads. The
student learns the teacher's hidden layers through one prediction head a layer; the heads are thrown away. Audio is
streamed, so memory stays flat; a run that was killed resumes where it last saved its state.

    ser distill --teacher DIR --from-teacher 2 --teacher-layers 4,8,12 --audio DIR --out DIR
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch.nn import functional

from ser.audio.load import SAMPLE_RATE_HZ
from ser.encoders.distillation.data import CropSettings, CropStream, Position, files_fingerprint, teacher_statistics
from ser.encoders.distillation.student import Distiller, Student
from ser.encoders.encoder import Encoder
from ser.errors import SettingsError
from ser.files import write_atomically
from ser.states import load_optimizer, optimizer_tensors, part, read_tensors

STATE = "state.safetensors"
COUNTERS = ("step", "audio_s", "elapsed_s")  # of a run


@dataclass(frozen=True)
class DistillSettings:
    """How to distil.

    Attributes:
        teacher_layers: hidden layers of the teacher to predict, one head each.
        cosine_weight: lambda of equation 1.
        pooled_weight: weight of the same loss on time averages; 0 is equation 1 alone.
        standardise: give every teacher dimension zero mean and unit variance first; Whisper's layers have a few
            dimensions that are a hundred times larger than the rest and would drown them. Off, as in the paper.
        steps: optimiser steps; the one setting that may change when a saved run is resumed.
        learning_rate: peak, after a linear rise over the first `warmup` share of the steps, then linear to zero.
        warmup: share of the steps.
        crops: what a step sees; its seed is that of the weights too.
    """

    teacher_layers: tuple[int, ...] = (4, 8, 12)
    cosine_weight: float = 1.0
    pooled_weight: float = 0.0
    standardise: bool = True
    steps: int = 20_000
    learning_rate: float = 1e-3
    warmup: float = 0.07
    crops: CropSettings = CropSettings()

    def __post_init__(self) -> None:
        if not self.teacher_layers or min(self.teacher_layers) < 0:
            raise SettingsError(f"teacher_layers must name at least one layer, got {self.teacher_layers}.")
        if not 0 <= self.warmup < 1:
            raise SettingsError(f"warmup is a share below 1, got {self.warmup}.")
        for name in ("steps", "learning_rate", "cosine_weight", "pooled_weight"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} must be at least 0, got {getattr(self, name)}.")


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


class Distillation:
    """One run in the folder `out`: model, optimiser, position; saved and restored as a whole.

    It computes where the teacher does.

    Raises:
        SettingsError: the folder holds a run with other settings, or one that is damaged.
    """

    def __init__(
        self, files: Sequence[Path], teacher: Encoder, student: Student, out: Path, settings: DistillSettings
    ) -> None:
        torch.manual_seed(settings.crops.seed)
        self.settings, self.student, self.out = settings, student, out
        self.device, layers = teacher.device, settings.teacher_layers
        self.distiller = Distiller(student.model, len(layers), teacher.dim).to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.distiller.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.step, self.audio_s, self.elapsed_s = 0, 0.0, 0.0
        self.stream = CropStream(files, teacher, layers, student, settings.crops, Position())
        self.identity = {
            "settings": json.loads(json.dumps(asdict(settings))),
            "student": dict(student.origin),
            "teacher": {"name": teacher.name, "fingerprint": teacher.fingerprint},
            "audio": {"files": len(files), "fingerprint": files_fingerprint(files)},
        }
        out.mkdir(parents=True, exist_ok=True)
        self._restore()

    def run(
        self, report: Callable[[dict[str, Any]], None], say: Callable[[str], None], save_every_s: float = 60.0
    ) -> None:
        """Train to the last step; `report` gets figures every 20 steps, `say` a sentence before waits without steps."""
        if self.step >= self.settings.steps:
            return
        if self.settings.standardise and not self.distiller.scale.any():
            say("Measuring the scale of the teacher's layers on the first pieces of audio.")
            first = copy.copy(self.stream)
            first.position = Position()
            mean, scale = teacher_statistics(first)
            self.distiller.mean.copy_(mean)
            self.distiller.scale.copy_(scale)
            self.save()
        n_crops = self.settings.crops.buffer
        say(f"Reading {n_crops} crops and the teacher's hidden states of them before step {self.step + 1}.")
        saved = time.monotonic()
        begun = saved - self.elapsed_s
        self.distiller.train()
        for waveforms, targets in self.stream.batches():
            losses = self._step(waveforms.to(self.device), targets.to(self.device))
            self.elapsed_s = time.monotonic() - begun
            if self.step % 20 == 0 or self.step == self.settings.steps:
                report(self._line(losses))
            if self.step >= self.settings.steps:
                break
            if time.monotonic() - saved > save_every_s:
                self.save()
                saved = time.monotonic()
        self.save()

    def _step(self, waveforms: torch.Tensor, targets: torch.Tensor) -> list[float]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * schedule(self.step, self.settings)
        if self.settings.standardise:
            targets = (targets - self.distiller.mean) / self.distiller.scale
        losses = []
        for prediction, target in zip(self.distiller(waveforms), targets, strict=True):
            loss = distillation_loss(prediction, target, self.settings.cosine_weight)
            if self.settings.pooled_weight:
                means = prediction.mean(1, keepdim=True), target.mean(1, keepdim=True)
                pooled = distillation_loss(*means, self.settings.cosine_weight)
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
        rounded = {"audio_h": self.audio_s / 3600, "elapsed_s": self.elapsed_s, "left_s": left_s}
        return {
            "step": self.step,
            "of": self.settings.steps,
            "epoch": self.stream.position.epoch,
            "loss": [round(loss, 4) for loss in losses],
            **{name: round(value, 3) for name, value in rounded.items()},
        }

    def save(self) -> None:
        """Write everything that a later process needs to resume, as one file, atomically."""
        tensors = {f"model.{key}": value for key, value in self.distiller.state_dict().items()}
        tensors |= {f"optimiser.{key}": value for key, value in optimizer_tensors(self.optimiser).items()}
        progress: dict[str, Any] = {name: getattr(self, name) for name in COUNTERS}
        progress |= {"position": asdict(self.stream.position), "bad_files": self.stream.bad_files}
        metadata = {"progress": json.dumps(progress), "identity": json.dumps(self.identity)}
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        write_atomically(self.out / STATE, save(tensors, metadata))

    def _restore(self) -> None:
        path = self.out / STATE
        if not path.exists():
            return
        try:
            metadata, tensors = read_tensors(path)
            identity, progress = json.loads(metadata["identity"]), json.loads(metadata["progress"])
        except Exception as error:
            raise SettingsError(f"{path} is damaged ({error}). Delete it to begin anew.") from error
        identity["settings"]["steps"] = self.settings.steps
        if identity != self.identity:
            other = [key for key in self.identity if identity.get(key) != self.identity[key]]
            raise SettingsError(
                f"{self.out} holds a run with other {', '.join(other)}. Choose another --out, or delete that folder."
            )
        self.distiller.load_state_dict(part(tensors, "model."))
        load_optimizer(self.optimiser, part(tensors, "optimiser."))
        vars(self).update({name: progress[name] for name in COUNTERS})
        self.stream.position, self.stream.bad_files = Position(**progress["position"]), progress["bad_files"]

    def export(self, half: bool = False, licence: str | None = None) -> Path:
        """Write the student without its heads as the encoder folder `OUT/encoder`."""
        done = {name: getattr(self, name) for name in COUNTERS}
        self.student.write(self.out / "encoder", {**self.identity, "licence": licence, **done}, half)
        return self.out / "encoder"


def schedule(step: int, settings: DistillSettings) -> float:
    """Share of the peak learning rate: a linear rise, then linear to zero."""
    rise = max(1, round(settings.warmup * settings.steps))
    if step < rise:
        return (step + 1) / rise
    return max(0.0, (settings.steps - step) / max(1, settings.steps - rise))
