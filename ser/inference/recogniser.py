"""From a recording to an emotion, on ONNX Runtime: what is asked of a model, and what comes out.

The result carries calibrated probabilities for the whole recording, whether the model is sure, and an emotion
timeline over sliding windows, with gaps where nobody speaks. A recording without speech is refused. Up to the training
length (6 s) speech goes through the model as in training; more is the average over consecutive pieces of that length,
weighted by their duration.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ser.audio.load import MAX_DURATION_S, SAMPLE_RATE_HZ, Samples, load_audio, prepare
from ser.audio.speech import Span, Speech, speech_of
from ser.classifier.checkpoint import Checkpoint
from ser.encoders.chunking import FRAME_RATE_HZ, Frames
from ser.errors import AudioError, SettingsError
from ser.features.reduce import averaged
from ser.inference.adaptation import Training, Voice

WINDOW_S, HOP_S = 2.0, 0.5
PIECES_AT_ONCE = 64
Recording: TypeAlias = "str | Path | tuple[int, NDArray[np.generic]]"  # a file, or a rate in Hz and samples


class SpeechEncoder(Protocol):
    """An encoder as answers need it: `GraphEncoder`, or `Encoder` on torch."""

    speech_only: bool

    def __call__(self, utterances: Sequence[Samples]) -> list[Frames]: ...


@dataclass(frozen=True)
class Timeline:
    """How the emotion moves through a recording.

    Attributes:
        start_s, end_s: `(windows,)` seconds; none reaches over a stretch without speech. The whole recording is
            encoded once, so a window knows a little of what surrounds it.
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
        speech: start and end in seconds of each stretch in which somebody speaks.
        timeline: see `Timeline`; None where none was asked for.
        seconds: what decoding, encoding and classifying took.
    """

    file: str
    emotion: str
    probabilities: dict[str, float]
    confident: bool
    duration_s: float
    speech: tuple[Span, ...]
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
            "speech": [[round(start, 3), round(end, 3)] for start, end in self.speech],
            "seconds": {step: round(value, 4) for step, value in self.seconds.items()},
        }
        if self.timeline is not None:
            rows = zip(self.timeline.start_s, self.timeline.end_s, self.timeline.probabilities, strict=True)
            content["timeline"] = [
                {
                    "start_s": round(float(start), 3),
                    "end_s": round(float(end), 3),
                    "probabilities": dict(zip(self.probabilities, (round(float(p), 6) for p in row), strict=True)),
                }
                for start, end, row in rows
            ]
        return content


class Recogniser:
    """A model that is ready to answer. Safe to call from several threads.

    Attributes:
        checkpoint: all that is known of it.
        labels: emotions in the order of the probabilities.
        max_frames: longer recordings are the average over pieces of so many frames.
        calibration: its threshold says what counts as sure.
        encoder: utterances to the frames of each.
        averaged_frames: neighbouring frames that the classifier gets the average of.
        speech_only: the encoder is given the speech of a recording alone.
        training: where the frames of its training speakers lie; None where it was trained without voices.
        trained_on: the speakers of its training, `corpus:speaker`; none where the checkpoint does not name them.
    """

    def __init__(
        self, checkpoint: Checkpoint, encoder: SpeechEncoder, classifier: Any, training: Training | None
    ) -> None:
        """From a checkpoint, its encoder, ONNX Runtime's session of its classifier, and its training's voices."""
        self.checkpoint, self.encoder, self.training = checkpoint, encoder, training
        self._classifier = classifier
        self.labels, self.max_frames = checkpoint.labels, checkpoint.max_frames
        self.calibration, self.speech_only = checkpoint.calibration, encoder.speech_only
        self.averaged_frames = checkpoint.classifier.averaged_frames
        self.trained_on: tuple[str, ...] = tuple(checkpoint.data.get("speakers", ()))

    def __call__(
        self, recording: Recording, timeline: bool = True,
        window_s: float = WINDOW_S, hop_s: float = HOP_S, max_duration_s: float = MAX_DURATION_S,
        voice: Voice | None = None,
    ) -> Prediction:  # fmt: skip
        """Recognise the emotion of a recording.

        Args:
            recording: a path, or `(rate in Hz, samples)` with samples `(samples,)` or `(samples, channels)`.
            timeline: also classify sliding windows.
            window_s, hop_s: their length and distance in seconds.
            max_duration_s: a longer recording is refused.
            voice: the speaker's, from `adapt`.

        Raises:
            AudioError: the recording cannot be used, or nobody speaks in it; the message says which.
            SettingsError: a window shorter than 0.2 s or a hop shorter than 0.02 s, or a voice for a model without.
            CheckpointError: the voice of another encoder.
        """
        if not (0.2 <= window_s < np.inf and 1 / FRAME_RATE_HZ <= hop_s < np.inf):
            raise SettingsError(f"window_s {window_s} must be at least 0.2 and hop_s {hop_s} at least 0.02.")
        begun = time.perf_counter()
        name, samples = _samples(recording, max_duration_s)
        decoded = time.perf_counter()
        speech = _speech(samples, name)
        found = time.perf_counter()
        frames = self._frames(samples, speech)
        if voice is not None:
            frames = voice(frames, self.known_training)
        encoded = time.perf_counter()
        whole = self.classify(frames)
        moves = self._timeline(frames, speech.spans, window_s, hop_s) if timeline else None
        done = time.perf_counter()
        return Prediction(
            file=name,
            emotion=self.labels[int(whole.argmax())],
            probabilities=dict(zip(self.labels, map(float, whole), strict=True)),
            confident=bool(whole.max() >= self.calibration.threshold),
            duration_s=samples.size / SAMPLE_RATE_HZ,
            speech=speech.spans,
            timeline=moves,
            seconds={
                "decode": decoded - begun,
                "find speech": found - decoded,
                "encode": encoded - found,
                "classify": done - encoded,
            },
        )

    def adapt(self, recordings: Sequence[Recording] = (), neutral: Sequence[Recording] = ()) -> Voice:
        """Get to know one speaker's voice, for better answers to other recordings of the same speaker.

        Args:
            recordings: of the speaker, in the mixture of emotions that the speaker has; ten or more are best.
            neutral: instead of them, some that are known to be neutral; three to five do.

        Raises:
            AudioError: a recording cannot be used, or nobody speaks in it.
            SettingsError: no recordings, or both kinds, or a model that was trained without voices.
        """
        assert self.known_training
        if bool(recordings) == bool(neutral):
            raise SettingsError("adapt takes recordings of one speaker, or neutral ones; give one of the two.")
        heard = [self.frames(recording) for recording in recordings or neutral]
        return self.voice_of(heard, neutral=bool(neutral))

    def voice_of(self, heard: Sequence[Frames], neutral: bool = False) -> Voice:
        """The voice of a speaker from what `frames` gives of each recording, at least one."""
        return Voice.of(heard, self.known_training.fingerprint, neutral, self._rate_hz)

    @property
    def _rate_hz(self) -> float:
        return FRAME_RATE_HZ / self.averaged_frames

    def frames(self, recording: Recording) -> Frames:
        """Frames `(frames, *frame_shape)` of a recording, as the classifier takes them.

        Raises:
            AudioError: the recording cannot be used, or nobody speaks in it.
        """
        name, samples = _samples(recording, MAX_DURATION_S)
        speech = _speech(samples, name)
        return self._frames(samples, speech)

    def _frames(self, samples: Samples, speech: Speech) -> Frames:
        (frames,) = self.encoder([speech.samples if self.speech_only else samples])
        return averaged(frames, self.averaged_frames)

    @property
    def known_training(self) -> Training:
        """What a voice is moved by; a SettingsError where the model was trained without voices."""
        if self.training is None:
            raise SettingsError(
                "This model was trained without voices: it cannot adapt. Train one with --voices 0.5, or take the "
                "shipped one."
            )
        return self.training

    def classify(self, frames: Frames) -> NDArray[np.float32]:
        """Calibrated probabilities `(labels,)` of a whole recording from its frames `(frames, dim)`."""
        step = self.max_frames
        pieces = [frames[start : start + step] for start in range(0, len(frames), step)]
        weights = np.array([len(piece) for piece in pieces], dtype=np.float32)
        mixed: NDArray[np.float32] = weights @ self._probabilities(pieces) / weights.sum()
        return mixed

    def _timeline(self, frames: Frames, spans: Sequence[Span], window_s: float, hop_s: float) -> Timeline:
        rate_hz = self._rate_hz
        window, hop = max(1, round(window_s * rate_hz)), max(1, round(hop_s * rate_hz))
        pieces: list[Frames] = []
        times: list[Span] = []
        heard_s = 0.0  # of speech before the span
        for start_s, end_s in spans:
            begin = heard_s if self.speech_only else start_s
            spoken = frames[round(begin * rate_hz) : round((begin + end_s - start_s) * rate_hz)]
            last = max(0, len(spoken) - window)
            for first in sorted({*range(0, last + 1, hop), last}):
                pieces.append(spoken[first : first + window])
                until_s = end_s if first == last else start_s + (first + window) / rate_hz
                times.append((start_s + first / rate_hz, until_s))
            heard_s += end_s - start_s
        starts, ends = np.array(times).T
        return Timeline(starts, ends, self._probabilities(pieces))

    def _probabilities(self, pieces: Sequence[Frames]) -> NDArray[np.float32]:
        """`(pieces, labels)`, each piece by itself."""
        some = [pieces[start : start + PIECES_AT_ONCE] for start in range(0, len(pieces), PIECES_AT_ONCE)]
        return np.concatenate([self._batch_probabilities(batch) for batch in some])

    def _batch_probabilities(self, pieces: Sequence[Frames]) -> NDArray[np.float32]:
        """The same for a few pieces that fit into memory together."""
        lengths = np.array([len(piece) for piece in pieces], dtype=np.int32)
        batch = np.zeros((lengths.max(), len(pieces), *pieces[0].shape[1:]), dtype=np.float32)
        for column, piece in enumerate(pieces):
            batch[: len(piece), column] = piece
        rows: NDArray[np.float32] = self._classifier.run(None, {"batch": batch, "lengths": lengths})[0]
        return rows


def _speech(samples: Samples, name: str) -> Speech:
    speech = speech_of(samples)
    if not speech.spans:
        raise AudioError(
            f"No speech was found in {name}. Record somebody who speaks, nearer to the microphone.", "no_speech"
        )
    return speech


def _samples(recording: Recording, max_duration_s: float) -> tuple[str, Samples]:
    if isinstance(recording, tuple):
        rate_hz, samples = recording[0], np.asarray(recording[1])
        if samples.ndim and len(samples) > max_duration_s * rate_hz:
            raise AudioError(f"The recording lasts more than {max_duration_s:.0f} s. Cut it.", "too_long")
        return "recording", prepare(samples, rate_hz)
    return str(recording), load_audio(recording, max_duration_s)
