"""What can be wrong with the recordings of a corpus, and what becomes of them.

In: a `Corpus` and, where its sound was decoded, a `Sound` of each recording. Out: `Problem`s. What happens
to a recording with a problem is the rule of `RULES`, the same for every corpus.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser.audio.decode import Samples, read_audio
from ser.audio.load import MIN_DURATION_S, SILENCE_PEAK, check_sound
from ser.corpora.corpus import Corpus, Utterance
from ser.corpora.readers import READERS, Reader, named_emotion
from ser.corpora.words import spelled_emotion
from ser.errors import AudioError

FULL_SCALE = 0.99
CLIPPED_RUN = 3  # samples of one value at full scale: a wave that only touches full scale has fewer

# Kind of problem -> (whether the recording is left out, what it means).
RULES: dict[str, tuple[bool, str]] = {
    "missing": (True, "the table lists a file that is not there"),
    "not recognised": (True, "in the folder, but neither name nor table says speaker and emotion"),
    "unreadable": (True, "cannot be decoded, or ends before its header says"),
    "zero length": (True, "holds no sound at all"),
    "too short": (True, f"under {MIN_DURATION_S} s, which no encoder can use"),
    "too long": (True, "longer than the loader takes"),
    "not numbers": (True, "holds samples that are NaN or infinite"),
    "silent": (True, f"never louder than {20 * np.log10(SILENCE_PEAK):.0f} dB of full scale"),
    "duplicate": (True, "the same sound under the same label: the first is kept, this one is not"),
    "duplicate, other label": (True, "the same sound under different labels: none of them can be trusted"),
    "clipped": (False, f"{CLIPPED_RUN} or more samples in a row at full scale: the emotion is still heard"),
    "label contradicts name": (False, "the name says another emotion: the label of table or folder counts"),
    "two genders": (False, "the speaker occurs under two genders: scores by gender are unsure"),
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with one recording.

    Attributes:
        file: path below the corpus folder.
        kind: a key of `RULES`.
        reason: what exactly.
        dropped: whether `usable` leaves the recording out.
    """

    file: str
    kind: str
    reason: str
    dropped: bool


@dataclass(frozen=True)
class Sound:
    """What was heard of one recording.

    Attributes:
        rate_hz, duration_s: as decoded.
        level_db: root mean square against full scale.
        digest: of rate and samples: equal for the same sound in different containers.
        n_clipped: samples that stand in runs at full scale.
        full_scale: whether the wave reaches full scale, clipped or not.
        silent_tail_s: silence at the very end.
    """

    rate_hz: int
    duration_s: float
    level_db: float
    digest: str
    n_clipped: int
    full_scale: bool
    silent_tail_s: float


def problem_of(corpus: Corpus, path: Path, kind: str, reason: str) -> Problem:
    return Problem(corpus.file_of(path), kind, reason, RULES[kind][0])


def kind_of(error: AudioError) -> str:
    """The key of `RULES` for a recording that the loader refuses."""
    kind = {"empty": "zero length", "nan": "not numbers"}.get(error.kind, error.kind.replace("_", " "))
    return kind if kind in RULES else "unreadable"


def listen(path: Path) -> Sound:
    """Decode one recording and measure it.

    Raises:
        AudioError: it cannot be used, by the same limits as the loader's.
    """
    samples, rate_hz = read_audio(path)
    duration_s = samples.size / rate_hz
    check_sound(duration_s, float(samples.min()), float(samples.max()), path.name)
    loudness = np.abs(samples)
    return Sound(
        rate_hz=rate_hz,
        duration_s=duration_s,
        level_db=10 * float(np.log10(np.mean(samples.astype(np.float64) ** 2))),
        digest=hashlib.sha256(f"{rate_hz} ".encode() + samples.tobytes()).hexdigest(),
        n_clipped=count_clipped(samples),
        full_scale=bool(loudness.max() >= FULL_SCALE),
        silent_tail_s=int((loudness[::-1] >= SILENCE_PEAK).argmax()) / rate_hz,
    )


def count_clipped(samples: Samples) -> int:
    """Samples of `(samples,)` that stand in runs of one value at full scale or beyond."""
    full = np.abs(samples) >= FULL_SCALE
    if not full.any():
        return 0
    starts = np.flatnonzero(np.r_[True, np.diff(samples) != 0])
    lengths = np.diff(np.r_[starts, samples.size])
    return int(lengths[(lengths >= CLIPPED_RUN) & full[starts]].sum())


def contradictions(corpus: Corpus) -> Iterator[Problem]:
    """Labels that are not what the file's name says, by the corpus' reader or by a word in the name."""
    corpora = {one.corpus for one in corpus.utterances}
    own = [reader for reader in READERS if any(name.startswith(reader.name) for name in corpora)]
    readers = own or [reader for reader in READERS if _fits(reader, corpus)]
    for one in corpus.utterances:
        named = (named_emotion(reader, _name_of(one)) for reader in readers)
        emotion = next(filter(None, named), None) or spelled_emotion(_name_of(one))
        if emotion is not None and emotion != one.emotion:
            reason = f"its name says {emotion}, its label {one.emotion}"
            yield problem_of(corpus, one.path, "label contradicts name", reason)


def _fits(reader: Reader, corpus: Corpus) -> bool:
    """Whether a table's recordings are named as the reader has it: half of them are, and half of those agree."""
    named = [(named_emotion(reader, _name_of(one)), one.emotion) for one in corpus.utterances]
    fitting = [emotion == label for emotion, label in named if emotion]
    return 2 * len(fitting) >= len(named) and 2 * sum(fitting) >= len(fitting)


def _name_of(one: Utterance) -> str:
    """The path that a reader looks at: in full, since folders count, without the suffix."""
    return os.path.splitext(os.path.abspath(one.path))[0]  # noqa: PTH100, PTH122  a table may say "/"


def two_genders(corpus: Corpus) -> Iterator[Problem]:
    """The recordings of the rarer gender of every speaker who has two."""
    genders: dict[str, Counter[str]] = defaultdict(Counter)
    for one in corpus.utterances:
        if one.gender:
            genders[one.speaker][one.gender] += 1
    for one in corpus.utterances:
        [(usual, n), *rarer] = genders[one.speaker].most_common() or [("", 0)]
        if rarer and one.gender and one.gender != usual:
            reason = f"speaker {one.speaker} is {one.gender} here and {usual} in {n} other recordings"
            yield problem_of(corpus, one.path, "two genders", reason)


def duplicates(corpus: Corpus, sounds: Mapping[Path, Sound]) -> Iterator[Problem]:
    """Recordings that hold the same sound as another."""
    same: dict[str, list[Utterance]] = defaultdict(list)
    for one in corpus.utterances:
        if one.path in sounds:
            same[sounds[one.path].digest].append(one)
    for first, *others in same.values():
        if len({one.emotion for one in (first, *others)}) > 1:
            both = ", ".join(f"{corpus.file_of(one.path)} ({one.emotion})" for one in (first, *others))
            for one in (first, *others):
                yield problem_of(corpus, one.path, "duplicate, other label", f"one sound: {both}")
            continue
        for one in others:
            speakers = "" if one.speaker == first.speaker else f", there of speaker {first.speaker}"
            reason = f"the same sound as {corpus.file_of(first.path)}{speakers}"
            yield problem_of(corpus, one.path, "duplicate", reason)
