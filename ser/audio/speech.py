"""Where somebody speaks in a recording: silero-vad's network (Silero Team, MIT licence) on ONNX Runtime, without torch.

In: `(samples,)` float32 at 16 kHz. Out: spans of speech in seconds, and the speech alone at one level.
https://github.com/snakers4/silero-vad
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ser.audio.load import SAMPLE_RATE_HZ, Samples

FRAME, CONTEXT = 512, 64  # samples of a frame of the network, and of the one before that it hears too
FRAMES_AT_ONCE = 1024
SURE, STILL = 0.5, 0.35  # probability of speech somewhere in a span, and all through it
PAUSE_S, SHORTEST_S = 0.3, 0.1  # a shorter pause parts no span; a shorter span is no speech
LEAST_S = 0.3  # of the longest span of a recording in which somebody speaks: the onset of a tone is mistaken for less
FAINT_DB = -26.0  # level of a silent end against the loudest window of a span
WINDOW, STEP = 160, 16  # samples of such a window, and from one to the next
LEAD = 16  # frames of silence before a recording, so that one that begins with speech is heard as any other
SLACK = 10  # frames by which a span is widened before it is cut to its sound
SAME_S = 0.5 / SAMPLE_RATE_HZ  # spans that meet or overlap are one
BREAK_S = 1.0  # a longer pause is cut out
LEVEL = 10 ** (-26 / 20)  # root mean square of speech that an encoder hears
PEAK = 0.5  # to which a recording is brought first: the network hears faint voices less

Span = tuple[float, float]  # start and end in seconds
Time = TypeVar("Time", int, float)


def speech_spans(samples: Samples) -> list[Span]:
    """Spans in which somebody speaks, in order; none where nobody does."""
    silence = np.zeros(LEAD * FRAME, np.float32)
    probabilities = speech_probabilities(np.concatenate([silence, samples, silence]))
    edges = np.diff((probabilities >= STILL).astype(np.int8), prepend=0, append=0).nonzero()[0].reshape(-1, 2)
    pause, shortest = (seconds * SAMPLE_RATE_HZ / FRAME for seconds in (PAUSE_S, SHORTEST_S))
    joined = _joined([(start, end) for start, end in edges.tolist()], pause)
    sure = [one for one in joined if one[1] - one[0] >= shortest and probabilities[slice(*one)].max() >= SURE]
    if max((end - start for start, end in sure), default=0) * FRAME < LEAST_S * SAMPLE_RATE_HZ:
        return []
    around = ((start - LEAD - SLACK, end - LEAD + SLACK) for start, end in sure)
    bounded = ((max(0, start * FRAME), min(samples.size, end * FRAME)) for start, end in around)
    return _joined([_tightened(samples, start, end) for start, end in bounded if end > start], SAME_S)


def _joined(spans: Iterable[tuple[Time, Time]], pause: float) -> list[tuple[Time, Time]]:
    """Spans in order, those as one that a shorter pause parts."""
    joined: list[tuple[Time, Time]] = []
    for start, end in spans:
        if joined and start - joined[-1][1] < pause:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _tightened(samples: Samples, start: int, end: int) -> Span:
    """A span of samples in seconds, without ends that are silent beside its loudest part: the network lags behind."""
    around = np.zeros(WINDOW)  # a window that reaches beyond the recording hears silence there
    squares = np.square(np.concatenate([around, samples[start:end], around]), dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(squares)])
    firsts = np.arange(0, len(squares) - WINDOW + 1, STEP)  # window n is of the samples before firsts[n]
    power = total[firsts + WINDOW] - total[firsts]
    loud = firsts[power > power.max() * 10 ** (FAINT_DB / 10)]
    first, last = (int(loud[0]), int(loud[-1]) - WINDOW) if loud.size else (0, end - start)
    first, last = (first, last) if first < last else (max(0, last), first)
    return (start + first) / SAMPLE_RATE_HZ, min(end, start + last) / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Speech:
    """The speech of a recording.

    Attributes:
        samples: `(samples,)` the spans one after the other, at `LEVEL`; the whole recording where there are none.
        spans: where they are in the recording; none where nobody speaks.
    """

    samples: Samples
    spans: tuple[Span, ...]


def speech_of(samples: Samples) -> Speech:
    """Cut what is before, behind and between speech, but for short pauses, and bring it to one level."""
    spans = _joined(speech_spans(samples), BREAK_S)
    pieces = [samples[round(a * SAMPLE_RATE_HZ) : round(b * SAMPLE_RATE_HZ)] for a, b in spans]
    spoken = np.concatenate(pieces) if pieces else samples
    level = np.sqrt(np.square(spoken, dtype=np.float64).mean())
    return Speech((spoken * (LEVEL / max(level, 1e-9))).astype(np.float32), tuple(spans))


def speech_probabilities(samples: Samples) -> NDArray[np.float32]:
    """Probability of speech in each 32 ms, `(ceil(samples / 512),)`."""
    frames = np.zeros((-(-samples.size // FRAME), FRAME), np.float32)
    frames.reshape(-1)[: samples.size] = samples * (PEAK / max(1e-4, float(np.abs(samples).max(initial=0))))
    heard = np.zeros((len(frames), CONTEXT + FRAME), np.float32)
    heard[:, CONTEXT:], heard[1:, :CONTEXT] = frames, frames[:-1, -CONTEXT:]
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(heard), FRAMES_AT_ONCE):
        inputs = {"input": heard[start : start + FRAMES_AT_ONCE], "h": hidden, "c": cell}
        some, hidden, cell = _network().run(["speech_probs", "hn", "cn"], inputs)
        found.append(some.reshape(-1))
    return np.concatenate(found)


@cache
def _network() -> Any:
    import onnxruntime

    package = find_spec("silero_vad")  # importing it would import torch
    assert package is not None
    assert package.origin is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
