"""Shape of the classifier, apart from it: who only reads a checkpoint's description need not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ser.encoders.chunking import FRAME_RATE_HZ
from ser.errors import SettingsError

NORM_EPSILON = 1e-3  # of the layer norm: Keras' default; torch has 1e-5
AXES_BUFFERS = ("components_mean", "components_axes")  # `(dim,)` and `(dim, components)` of the frames
MOST_AVERAGED = 50  # frames are a second
MOST_UNITS = 100_000  # of a layer, and layers: above what any memory holds
# Mean and deviation over the training utterances of their functionals, each `(2 * width,)`.
FUNCTIONALS_BUFFERS = ("functionals_mean", "functionals_deviation")
# What a classifier that was trained with voices keeps of its training speakers, each `(*frame_shape)`: mean and
# deviation of their frames, and the way from a speaker's neutral mean to the mean of all of theirs.
VOICE_BUFFERS = ("voice_mean", "voice_deviation", "voice_from_neutral")


@dataclass(frozen=True)
class ClassifierSettings:
    """Shape of the classifier; the defaults are the best configuration of the paper.

    Attributes:
        base_units: units of the first GRU layer, a direction.
        final_units: units of the last one; layers between are spaced linearly. One layer has `base_units`.
        gru_layers: 1 or more.
        dropout: share of the encoder's numbers set to zero in training.
        pooling: "last" takes the last forward and the first backward state (the paper); "attentive" takes the mean
            and standard deviation of all states under learned attention (Okabe et al. 2018).
        weighted_layers: 0 takes one layer of the encoder (the paper); more take the sum of so many hidden layers, the
            front end's output counted, under learned softmax weights (Yang et al. 2021, SUPERB).
        concatenated_layers: more than 1 put the numbers of so many hidden layers, up to the chosen one, side by side.
        components: numbers a frame that the classifier gets in place of all of them; 0 leaves them.
        components_by: what they are: the principal components of the frames of training speakers ("variance"), or
            those of the frames' own dimensions without which validation speakers would be recognised worst
            ("validation", see `ser.features.reduce.useful_dimensions`).
        averaged_frames: neighbouring frames whose average the classifier gets in their place; 1 leaves them.
        final_dropout: share of the pooled numbers set to zero in training, before the dense layer.
        voices: share of training utterances whose frames are moved to the mean and deviation of all training speakers
            from those of their own, so that the classifier also serves recordings moved so: see
            `ser.inference.adaptation`. 0 never moves them (the paper).
        functionals: a second, linear classifier beside the Bi-GRU, on mean and standard deviation of an utterance's
            frames; both learn by themselves, and their probabilities are averaged.
    """

    base_units: int = 192
    final_units: int = 32
    gru_layers: int = 2
    dropout: float = 0.2
    pooling: Literal["last", "attentive"] = "last"
    weighted_layers: int = field(default=0, metadata={"may_be_absent": True})  # checkpoints are older
    concatenated_layers: int = field(default=0, metadata={"may_be_absent": True})
    components: int = field(default=0, metadata={"may_be_absent": True})
    components_by: Literal["variance", "validation"] = field(default="variance", metadata={"may_be_absent": True})
    averaged_frames: int = field(default=1, metadata={"may_be_absent": True})
    final_dropout: float = field(default=0.0, metadata={"may_be_absent": True})
    voices: float = field(default=0.0, metadata={"may_be_absent": True})
    functionals: bool = field(default=False, metadata={"may_be_absent": True})

    def __post_init__(self) -> None:
        sizes = (self.base_units, self.final_units, self.gru_layers)
        if not 1 <= min(sizes) <= max(sizes) <= MOST_UNITS:
            raise SettingsError(
                f"base_units {self.base_units}, final_units {self.final_units} and gru_layers {self.gru_layers} "
                f"must each be 1 to {MOST_UNITS:,}."
            )
        for name in ("weighted_layers", "concatenated_layers"):
            if getattr(self, name) < 0 or getattr(self, name) == 1:
                raise SettingsError(f"{name} must be 0 or at least 2, got {getattr(self, name)}.")
        if self.weighted_layers and self.concatenated_layers:
            raise SettingsError("Layers are weighted or concatenated; give one of the two.")
        if self.components < 0 or (self.components and self.weighted_layers):
            raise SettingsError(
                f"components must not be negative and cannot be taken of a weighted sum, got {self.components}."
            )
        if self.functionals and (self.components or self.weighted_layers):
            raise SettingsError("functionals are taken of the encoder's own numbers: without components or weights.")
        if not 1 <= self.averaged_frames <= MOST_AVERAGED:
            raise SettingsError(f"averaged_frames must be 1 to {MOST_AVERAGED}, got {self.averaged_frames}.")
        for name in ("dropout", "final_dropout", "voices"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.components_by not in ("variance", "validation"):
            raise SettingsError(f"components_by must be 'variance' or 'validation', got {self.components_by!r}.")
        if self.pooling not in ("last", "attentive"):
            raise SettingsError(f"pooling must be 'last' or 'attentive', got {self.pooling!r}.")

    @property
    def stacked_layers(self) -> int:
        """Layers of the encoder in every frame; 0 for one that is not stacked."""
        return self.weighted_layers or self.concatenated_layers

    def width(self, dim: int) -> int:
        """Numbers of a frame that reach the layer norm, from an encoder of `dim`."""
        return self.components or dim * max(1, self.concatenated_layers)

    def cost(self, dim: int) -> int:
        """Products of a second of speech in the recurrent layers, what most of the classifier's time goes into."""
        inputs = [self.width(dim), *(2 * units for units in self.units)]
        step = sum(2 * 3 * units * (size + units) for size, units in zip(inputs, self.units, strict=False))
        projected = self.components * dim * max(1, self.concatenated_layers) * (self.components_by == "variance")
        return round(FRAME_RATE_HZ / self.averaged_frames * (step + projected))

    @property
    def units(self) -> tuple[int, ...]:
        """Units of each GRU layer, spaced linearly from base to final (section 4.2)."""
        if self.gru_layers == 1:
            return (self.base_units,)
        step = (self.final_units - self.base_units) / (self.gru_layers - 1)
        return tuple(round(self.base_units + step * layer) for layer in range(self.gru_layers))
