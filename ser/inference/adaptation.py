"""Knowing a voice: what is lost on a stranger is mostly a shift of the frames, which a few recordings measure.

In: frames of one speaker's recordings, unlabelled or neutral ones. Out: a `Voice`, by which frames of the same speaker
are moved to where those of the training speakers lie, as the classifier heard them in training
(`ClassifierSettings.voices`). A voice whose recordings all have one emotion loses that emotion: give mixed ones, or say
that they are neutral.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.encoders.chunking import FRAME_RATE_HZ, Frames
from ser.errors import CheckpointError
from ser.files import write_atomically

FORMAT = "persian-ser voice 1"
HALF_KNOWN_S = 2.0  # with so much speech half of a shift is believed, with more of it more


@dataclass(frozen=True, eq=False)
class Training:
    """Where the frames of a model's training speakers lie: each `(*frame_shape)`.

    Attributes:
        fingerprint: of the encoder, and of what is made of its frames.
        mean, deviation: over all of them.
        from_neutral: from the mean of a speaker's neutral frames to the mean of all of theirs, on average.
    """

    fingerprint: str
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    from_neutral: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Voice:
    """Where the frames of one speaker lie.

    Attributes:
        fingerprint: of the encoder that heard the speaker.
        mean, deviation: `(*frame_shape)` over the speech that was heard.
        seconds: of it.
        recordings: number of them.
        neutral: whether they were said to be neutral.
    """

    fingerprint: str
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    seconds: float
    recordings: int
    neutral: bool = False

    @classmethod
    def of(
        cls, recordings: Sequence[Frames], fingerprint: str, neutral: bool = False, rate_hz: float = FRAME_RATE_HZ
    ) -> Voice:
        """From the frames of a speaker's recordings, at least one, `rate_hz` a second."""
        frames = np.concatenate(recordings).astype(np.float64)
        mean = frames.mean(axis=0).astype(np.float32)
        deviation = np.sqrt(np.maximum(frames.var(axis=0), 1e-6)).astype(np.float32)
        return cls(fingerprint, mean, deviation, len(frames) / rate_hz, len(recordings), neutral)

    def __add__(self, other: Voice) -> Voice:
        """The same speaker's voice from the recordings of both, by the same encoder and of the same kind."""
        seconds = self.seconds + other.seconds
        share = self.seconds / seconds
        mean = share * self.mean + (1 - share) * other.mean
        within = share * self.deviation**2 + (1 - share) * other.deviation**2
        between = share * (self.mean - mean) ** 2 + (1 - share) * (other.mean - mean) ** 2
        deviation = np.sqrt(within + between).astype(np.float32)
        recordings = self.recordings + other.recordings
        return Voice(self.fingerprint, mean.astype(np.float32), deviation, seconds, recordings, self.neutral)

    def __call__(self, frames: Frames, training: Training) -> Frames:
        """Frames of the speaker, moved; the less speech the voice has heard, the less.

        Raises:
            CheckpointError: the voice was heard by another encoder than the model's.
        """
        if self.fingerprint != training.fingerprint:
            raise CheckpointError(
                f"This voice was heard by another encoder ({self.fingerprint}) than the model's "
                f"({training.fingerprint}). Adapt anew."
            )
        known = self.seconds / (self.seconds + HALF_KNOWN_S)
        mean = self.mean + training.from_neutral if self.neutral else self.mean
        mean = training.mean + known * (mean - training.mean)
        scale = np.ones_like(mean) if self.neutral else (training.deviation / self.deviation) ** known
        return np.asarray((frames - mean) * scale + training.mean, np.float32)

    def save(self, path: str | Path) -> None:
        """Write the voice into one file (safetensors), whole or not at all."""
        from safetensors.numpy import save

        about = {"format": FORMAT, "fingerprint": self.fingerprint, "neutral": str(int(self.neutral))}
        about |= {"seconds": repr(self.seconds), "recordings": str(self.recordings)}
        write_atomically(Path(path), save({"mean": self.mean, "deviation": self.deviation}, metadata=about))

    @classmethod
    def load(cls, path: str | Path) -> Voice:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or of another program.
        """
        from safetensors import safe_open

        try:
            with safe_open(str(path), "numpy") as file:
                about: Mapping[str, Any] = file.metadata() or {}
                if about.get("format") != FORMAT:
                    raise ValueError(f"its format is {about.get('format')!r}, not {FORMAT!r}")
                return cls(
                    about["fingerprint"], file.get_tensor("mean"), file.get_tensor("deviation"),
                    float(about["seconds"]), int(about["recordings"]), about["neutral"] == "1",
                )  # fmt: skip
        except Exception as error:  # safetensors raises whatever the damage leads to
            raise CheckpointError(f"{path} holds no voice ({error}). Save one with ser.load().adapt(...).") from error
