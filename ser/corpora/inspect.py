"""What a corpus holds and what is wrong with it; every recording that is left out is named with the reason.

In: a `Corpus`. Out: a `CorpusReport`, and from it the corpus of usable recordings. `ser.reporting.corpus_report`
turns the report into text and a page.

    report = inspect_corpus(corpus)
    corpus = usable(corpus, report)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ser.corpora import checks
from ser.corpora.checks import RULES, Problem, Sound, problem_of
from ser.corpora.corpus import Corpus, Utterance
from ser.corpora.folder import is_file, shown
from ser.errors import AudioError, CorpusError
from ser.labels import in_order

SILENT_TAIL_S = 0.2
Progress = Callable[[int, int], None]  # (recordings done, in all)


@dataclass(frozen=True)
class EmotionRow:
    """What the usable recordings of one emotion are like.

    Attributes:
        n, share: recordings, and their fraction of all.
        n_speakers: speakers who have the emotion.
        by_gender, by_speaker: recordings of each.
        hours, mean_s: sound in all, and a recording's mean length; None where nothing was decoded.
        level_db: mean root mean square against full scale, None where nothing was decoded.
    """

    emotion: str
    n: int
    share: float
    n_speakers: int
    by_gender: dict[str, int]
    by_speaker: dict[str, int]
    hours: float | None
    mean_s: float | None
    level_db: float | None


@dataclass(frozen=True)
class CorpusReport:
    """The report of a corpus; counts are of the usable recordings.

    Attributes:
        name, root, fingerprint: of the corpus that was looked at.
        decoded: whether the sound was looked at, or names and labels alone.
        n_found, n_usable: recordings in the folder, and those with no problem that drops them.
        speakers: name -> gender or "unknown".
        hours, sample_rates: sound in all; rate in Hz -> recordings. Empty where nothing was decoded.
        durations_s: lengths by name of a measure such as "median".
        emotions: one row each.
        problems: by file.
        remarks: what concerns the corpus as a whole.
    """

    name: str
    root: str
    fingerprint: str
    decoded: bool
    n_found: int
    n_usable: int
    speakers: dict[str, str]
    hours: float | None
    sample_rates: dict[int, int]
    durations_s: dict[str, float]
    emotions: tuple[EmotionRow, ...]
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the rules are among them."""
        rules = {kind: {"dropped": dropped, "meaning": text} for kind, (dropped, text) in RULES.items()}
        return {"kind": "corpus report", **asdict(self), "rules": rules}

    def to_json(self) -> str:
        return shown(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")


def inspect_corpus(corpus: Corpus, decode: bool = True, progress: Progress | None = None) -> CorpusReport:
    """Look at every recording.

    Args:
        corpus: what to look at.
        decode: also decode the sound; otherwise only names and labels are checked, and whether the files are
            there.
        progress: called after each recording.
    """
    problems = [problem_of(corpus, one.path, "not recognised", one.reason) for one in corpus.skipped]
    problems += [*checks.contradictions(corpus), *checks.two_genders(corpus)]
    sounds: dict[Path, Sound] = {}
    for done, one in enumerate(corpus.utterances, start=1):
        try:
            if decode:
                sounds[one.path] = sound = checks.listen(one.path)
                if sound.n_clipped:
                    reason = f"{sound.n_clipped} samples stand at full scale"
                    problems.append(problem_of(corpus, one.path, "clipped", reason))
            elif not is_file(one.path):
                raise AudioError("there is no such file", "missing")
        except AudioError as error:
            problems.append(problem_of(corpus, one.path, checks.kind_of(error), str(error)))
        if progress is not None:
            progress(done, len(corpus.utterances))
    problems += checks.duplicates(corpus, sounds)
    return _report(corpus, sorted(problems, key=lambda one: (one.file, one.kind)), sounds, decode)


def usable(corpus: Corpus, report: CorpusReport) -> Corpus:
    """The corpus without the recordings that the report drops.

    Raises:
        CorpusError: the report is of another corpus, or nothing is left.
    """
    if report.fingerprint != corpus.fingerprint:
        raise CorpusError(f"The report is not of this corpus ({report.name}, as it was); inspect {corpus.name} again.")
    kept = _kept(corpus, report.problems)
    if not kept:
        raise CorpusError(f"None of the {len(corpus.utterances)} recordings of {corpus.name} can be used.")
    return replace(corpus, utterances=kept)


def _kept(corpus: Corpus, problems: Sequence[Problem]) -> tuple[Utterance, ...]:
    dropped = {problem.file for problem in problems if problem.dropped}
    return tuple(one for one in corpus.utterances if corpus.file_of(one.path) not in dropped)


def _report(corpus: Corpus, problems: Sequence[Problem], sounds: Mapping[Path, Sound], decoded: bool) -> CorpusReport:
    kept = _kept(corpus, problems)
    heard = [sounds[one.path] for one in kept] if decoded else []
    rows = tuple(_emotion_row(name, kept, sounds) for name in in_order(one.emotion for one in kept))
    speakers = {one.speaker: one.gender or "unknown" for one in reversed(kept)}
    durations_s = np.array([sound.duration_s for sound in heard])
    lengths = {"shortest": 0, "median": 0.5, "95 % under": 0.95, "longest": 1}
    return CorpusReport(
        name=corpus.name,
        root=shown(corpus.root),
        fingerprint=corpus.fingerprint,
        decoded=decoded,
        n_found=len(corpus.utterances) + len(corpus.skipped),
        n_usable=len(kept),
        speakers=dict(sorted(speakers.items())),
        hours=float(durations_s.sum()) / 3600 if decoded else None,
        sample_rates=dict(sorted(Counter(sound.rate_hz for sound in heard).items())),
        durations_s={name: float(np.quantile(durations_s, q)) for name, q in lengths.items() if heard},
        emotions=rows,
        problems=tuple(problems),
        remarks=(*corpus.notes, *_remarks(rows, speakers), *_remarks_on_sound(heard)),
    )


def _emotion_row(emotion: str, kept: Sequence[Utterance], sounds: Mapping[Path, Sound]) -> EmotionRow:
    members = [one for one in kept if one.emotion == emotion]
    heard = [sounds[one.path] for one in members if one.path in sounds]
    seconds = [sound.duration_s for sound in heard]
    by_speaker = dict(sorted(Counter(one.speaker for one in members).items()))
    return EmotionRow(
        emotion=emotion,
        n=len(members),
        share=len(members) / len(kept),
        n_speakers=len(by_speaker),
        by_gender=dict(sorted(Counter(one.gender or "unknown" for one in members).items())),
        by_speaker=by_speaker,
        hours=sum(seconds) / 3600 if heard else None,
        mean_s=float(np.mean(seconds)) if heard else None,
        level_db=float(np.mean([sound.level_db for sound in heard])) if heard else None,
    )


def _remarks(rows: Sequence[EmotionRow], speakers: Mapping[str, str]) -> Iterator[str]:
    """What to know before trusting a score on this corpus."""
    if len(rows) == 1:
        yield f"All recordings are {rows[0].emotion}: nothing can be trained, two emotions are needed."
    single = [name for name in speakers if sum(name in row.by_speaker for row in rows) == 1]
    if len(rows) > 1 and 2 * len(single) >= len(speakers):
        yield (
            f"{len(single)} of {len(speakers)} speakers have a single emotion: who speaks gives the emotion "
            "away, so only speaker-disjoint scores mean anything."
        )
    scarce = [f"{row.emotion} ({row.n_speakers})" for row in rows if row.n_speakers < 5]
    if scarce:
        yield f"Fewer than five speakers have {', '.join(scarce)}: they cannot be in five folds."
    levels = {row.emotion: row.level_db for row in rows if row.level_db is not None}
    if levels and max(levels.values()) - min(levels.values()) > 10:
        loud, quiet = max(levels, key=lambda e: levels[e]), min(levels, key=lambda e: levels[e])
        yield (
            f"Mean level differs by emotion, from {levels[quiet]:.0f} dB ({quiet}) to {levels[loud]:.0f} dB "
            f"({loud}): loudness may give the emotion away."
        )


def _remarks_on_sound(sounds: Sequence[Sound]) -> Iterator[str]:
    """Habits of many recordings that are no fault of one."""
    durations_s = {sound.duration_s for sound in sounds}
    if len(sounds) > 2 and len(durations_s) == 1:
        yield f"All recordings last exactly {durations_s.pop():.3f} s: they were cut or padded."
    tails = sum(sound.silent_tail_s > SILENT_TAIL_S for sound in sounds)
    if 20 * tails > len(sounds):
        yield f"{tails} recordings end in over {SILENT_TAIL_S} s of silence."
    full = sum(sound.full_scale for sound in sounds)
    if 4 * full > len(sounds):
        clipped = sum(sound.n_clipped > 0 for sound in sounds)
        yield f"{full} recordings reach full scale, {clipped} of them clipped: normalised or too loud."
