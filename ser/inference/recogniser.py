"""From a recording to an emotion, whichever engine runs the model: what is asked of it, and what comes out.

The result carries calibrated probabilities for the whole recording, whether the model is sure, and an emotion
timeline over sliding windows. Recordings up to the training length (6 s) go through the model as in training;
longer ones are the average over consecutive pieces of that length, weighted by their duration.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.audio.load import MAX_DURATION_S, SAMPLE_RATE_HZ, Samples, load_audio, prepare
from ser.encoders.chunking import FRAME_RATE_HZ, Frames
from ser.errors import AudioError, SettingsError
from ser.scoring.calibration import Calibration

WINDOW_S, HOP_S = 2.0, 0.5
PIECES_AT_ONCE = 64


@dataclass(frozen=True)
class Timeline:
    """How the emotion moves through a recording.

    Attributes:
        start_s, end_s: `(windows,)` seconds. The whole recording is normalised and encoded once, so a window
            knows a little of what surrounds it.
        probabilities: `(windows, labels)`, each row sums to 1.
    """

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """What the model makes of one recording.

    Attributes:
        file: its path or name.
        emotion: the most probable one.
        probabilities: of each emotion, calibrated; they sum to 1.
        confident: False where the top probability is below the model's threshold: "unsure".
        duration_s: length of the recording.
        timeline: see `Timeline`; None where none was asked for.
        seconds: what decoding, encoding and classifying took.
    """

    file: str
    emotion: str
    probabilities: dict[str, float]
    confident: bool
    duration_s: float
    timeline: Timeline | None
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        content: dict[str, Any] = {
            "file": self.file,
            "emotion": self.emotion,
            "confident": self.confident,
            "probabilities": {label: round(value, 6) for label, value in self.probabilities.items()},
            "duration_s": round(self.duration_s, 3),
            "seconds": {step: round(value, 4) for step, value in self.seconds.items()},
        }
        if self.timeline is not None:
            rows = zip(self.timeline.start_s, self.timeline.end_s, self.timeline.probabilities, strict=True)
            content["timeline"] = [
                {
                    "start_s": round(float(start), 3),
                    "end_s": round(float(end), 3),
                    "probabilities": dict(
                        zip(self.probabilities, (round(float(p), 6) for p in row), strict=True)
                    ),
                }
                for start, end, row in rows
            ]
        return content


class Recogniser(ABC):
    """A model that is ready to answer. Safe to call from several threads.

    Attributes:
        labels: emotions in the order of the probabilities.
        max_frames: longer recordings are the average over pieces of so many frames.
        calibration: its threshold says what counts as sure.
        encoder: utterances to the frames of each.
        trained_on: the speakers of its training, `corpus:speaker`; none where the checkpoint does not name them.
    """

    labels: tuple[str, ...]
    max_frames: int
    calibration: Calibration
    encoder: Callable[[Sequence[Samples]], list[Frames]]
    trained_on: Sequence[str] = ()

    def __call__(
        self, recording: str | Path | tuple[int, NDArray[np.generic]], timeline: bool = True,
        window_s: float = WINDOW_S, hop_s: float = HOP_S, max_duration_s: float = MAX_DURATION_S,
    ) -> Prediction:  # fmt: skip
        """Recognise the emotion of a recording.

        Args:
            recording: a path, or `(rate in Hz, samples)` with samples `(samples,)` or `(samples, channels)`.
            timeline: also classify sliding windows.
            window_s, hop_s: their length and distance in seconds.
            max_duration_s: a longer recording is refused.

        Raises:
            AudioError: the recording cannot be used; the message says why.
            SettingsError: a window shorter than 0.2 s or a hop shorter than 0.02 s.
        """
        if not (0.2 <= window_s < np.inf and 1 / FRAME_RATE_HZ <= hop_s < np.inf):
            raise SettingsError(f"window_s {window_s} must be at least 0.2 and hop_s {hop_s} at least 0.02.")
        begun = time.perf_counter()
        name, samples = _samples(recording, max_duration_s)
        decoded = time.perf_counter()
        (frames,) = self.encoder([samples])
        encoded = time.perf_counter()
        whole = self.classify(frames)
        moves = self._timeline(frames, samples.size / SAMPLE_RATE_HZ, window_s, hop_s) if timeline else None
        done = time.perf_counter()
        return Prediction(
            file=name,
            emotion=self.labels[int(whole.argmax())],
            probabilities=dict(zip(self.labels, map(float, whole), strict=True)),
            confident=bool(whole.max() >= self.calibration.threshold),
            duration_s=samples.size / SAMPLE_RATE_HZ,
            timeline=moves,
            seconds={"decode": decoded - begun, "encode": encoded - decoded, "classify": done - encoded},
        )

    def classify(self, frames: Frames) -> NDArray[np.float32]:
        """Calibrated probabilities `(labels,)` of a whole recording from its frames `(frames, dim)`."""
        step = self.max_frames
        pieces = [frames[start : start + step] for start in range(0, len(frames), step)]
        weights = np.array([len(piece) for piece in pieces], dtype=np.float32)
        mixed: NDArray[np.float32] = weights @ self._probabilities(pieces) / weights.sum()
        return mixed

    def _timeline(self, frames: Frames, duration_s: float, window_s: float, hop_s: float) -> Timeline:
        window, hop = round(window_s * FRAME_RATE_HZ), max(1, round(hop_s * FRAME_RATE_HZ))
        last = max(0, len(frames) - window)
        starts = np.unique(np.append(np.arange(0, last + 1, hop), last))
        probabilities = self._probabilities([frames[start : start + window] for start in starts])
        ends = np.minimum((starts + window) / FRAME_RATE_HZ, duration_s)
        ends[-1] = duration_s
        return Timeline(starts / FRAME_RATE_HZ, ends, probabilities)

    def _probabilities(self, pieces: Sequence[Frames]) -> NDArray[np.float32]:
        """`(pieces, labels)`, each piece by itself."""
        some = [pieces[start : start + PIECES_AT_ONCE] for start in range(0, len(pieces), PIECES_AT_ONCE)]
        return np.concatenate([self._batch_probabilities(batch) for batch in some])

    @abstractmethod
    def _batch_probabilities(self, pieces: Sequence[Frames]) -> NDArray[np.float32]:
        """The same for a few pieces that fit into memory together."""


def _samples(
    recording: str | Path | tuple[int, NDArray[np.generic]], max_duration_s: float
) -> tuple[str, Samples]:
    if isinstance(recording, tuple):
        rate_hz, samples = recording[0], np.asarray(recording[1])
        if samples.ndim and len(samples) > max_duration_s * rate_hz:
            raise AudioError(f"The recording lasts more than {max_duration_s:.0f} s. Cut it.", "too_long")
        return "recording", prepare(samples, rate_hz)
    return str(recording), load_audio(recording, max_duration_s)
