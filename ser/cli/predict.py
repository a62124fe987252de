"""`ser predict`: the emotion of recordings, for people, as JSON lines, or into a file that grows."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli.arguments import add_machine_arguments, add_model_arguments, add_sharing
from ser.cli.prepare import is_shared, named_model, sharing

if TYPE_CHECKING:
    from ser.encoders.chunking import Frames
    from ser.inference.adaptation import Voice
    from ser.inference.output_files import ResultFile
    from ser.inference.recogniser import Prediction, Recogniser

STDERR = 2
HEARD = 50  # recordings by which a voice is known; more change little


@dataclass(frozen=True)
class Question:
    """One recording to be answered, as it was named and where it is, and how."""

    named: Path
    file: Path
    timeline: bool
    max_duration_s: float
    voice: Voice | None

    def put(self, predictor: Recogniser) -> Prediction:
        return predictor(self.file, timeline=self.timeline, max_duration_s=self.max_duration_s, voice=self.voice)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.audio.decode import MAX_DURATION_S

    parser.add_argument("inputs", nargs="+", type=Path, metavar="FILE|FOLDER", help="recordings, or their folders")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on standard output")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="append to this CSV table; run again to resume")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="OUT", help="append JSON lines to this file; run again to resume"
    )
    parser.add_argument("--timeline", action="store_true", help="also the emotion over time, in windows of 2 s")
    add_model_arguments(parser)
    add_sharing(parser)
    parser.add_argument(
        "--max-duration",
        type=float,
        default=MAX_DURATION_S,
        metavar="S",
        help="refuse longer recordings (default %(default)s s)",
    )
    voices = parser.add_argument_group(
        "voices", "what is lost on a stranger is mostly a shift, which other recordings of the same speaker measure"
    ).add_mutually_exclusive_group()
    voices.add_argument("--one-voice", action="store_true", help="all recordings are of one speaker")
    voices.add_argument("--voice-folders", action="store_true", help="each folder holds one speaker's recordings")
    voices.add_argument(
        "--neutral", nargs="+", type=Path, metavar="FILE", help="neutral recordings of the one speaker of all others"
    )
    add_machine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ser.corpora.folder import shown
    from ser.errors import SettingsError

    if args.timeline and args.csv and not (args.json or args.out):
        raise SettingsError("A table has no place for --timeline; use --out or --json.")
    if not args.max_duration > 0:
        raise SettingsError(f"--max-duration must be positive, got {args.max_duration}.")
    files, n_bad = _find(args.inputs)
    if not files:
        return int(n_bad > 0)
    labels, fingerprint = named_model(args)
    if args.one_voice or args.voice_folders or args.neutral:
        fingerprint += "-voices"  # such answers do not go on a file of others
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(output) for output in _outputs(args, labels, fingerprint)]
        waiting = [file for file in files if not outputs or any(shown(file) not in output.done for output in outputs)]
        if not args.debug:
            stack.enter_context(_own_stderr())
        n_bad += _predict(args, waiting, files, outputs)
    for output in outputs:
        print(f"{output.path}: {len(output.done)} recordings", file=sys.stderr)
    return int(n_bad > 0)


def _predict(
    args: argparse.Namespace, files: Sequence[Path], every: Sequence[Path], outputs: Sequence[ResultFile]
) -> int:
    """Predict and put out the files that are left of every one; returns how many were bad."""
    from tqdm import tqdm

    from ser import load
    from ser.corpora.folder import shown
    from ser.errors import JobError

    if not files:
        return 0
    knows_voices = args.neutral or args.one_voice or args.voice_folders
    shared = is_shared(args)
    predictor = load(args.checkpoint, args.encoder) if knows_voices or not shared else None
    voices = _voices(args, predictor, every) if predictor else lambda file: None
    n_bad = 0
    # None: a bar where people look, no lines in a log.
    bar = tqdm(unit="clip", initial=len(every) - len(files), total=len(every), disable=None if outputs else True)
    questions = (
        Question(file, file.resolve() if shared else file, args.timeline, args.max_duration, voices(file))
        for file in files
    )
    for question, answer in answers(args, None if shared else predictor, questions):
        try:
            prediction = answer()
        except JobError:  # not of this file alone
            raise
        except Exception as error:  # whatever one file leads to, the others are done
            n_bad += 1
            with tqdm.external_write_mode(sys.stderr):
                _report(question.named, error, args.debug)
            continue
        finally:
            bar.update()
        prediction = replace(prediction, file=shown(question.named))  # a name may have bytes that a table may not
        for output in outputs:
            output.write(prediction)
        if args.json or not outputs:
            print(json.dumps(prediction.to_dict()) if args.json else _readable(prediction), flush=True)
    bar.close()
    return n_bad


def answers(
    args: argparse.Namespace, predictor: Recogniser | None, questions: Iterable[Any]
) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """Each question with what gives its answer: the predictor, or without one other processes."""
    from ser.workers import in_order, result_of

    if predictor is not None:
        for question in questions:
            yield question, partial(question.put, predictor)
        return
    checkpoint = args.checkpoint and args.checkpoint.resolve()
    with sharing(args) as executor:
        assert executor is not None  # else a predictor was given
        for question, future in in_order(executor, partial(_asked, checkpoint, args.encoder), questions):
            yield question, partial(result_of, future)


def _asked(checkpoint: Path | None, encoder: str | None, question: Any) -> Any:
    """The answer, in a process that keeps its model."""
    from ser.inference.load import loaded

    return question.put(loaded(checkpoint, encoder))


def _voices(args: argparse.Namespace, predictor: Recogniser, files: Sequence[Path]) -> Callable[[Path], Voice | None]:
    """Which voice speaks in a file; None for every file where no option names any.

    Raises:
        AudioError: one of the neutral recordings cannot be used.
        SettingsError: the model was trained without voices.
    """
    if args.neutral:
        neutral = predictor.adapt(neutral=args.neutral)
        return lambda file: neutral
    groups: dict[Path, list[Path]] = {}
    for file in files if args.one_voice or args.voice_folders else ():
        groups.setdefault(file.parent if args.voice_folders else Path(), []).append(file)
    voices = {}
    for folder, members in groups.items():
        heard = [frames for file in members[:HEARD] if (frames := _frames(predictor, file)) is not None]
        if heard:
            voices[folder] = predictor.voice_of(heard)
    return lambda file: voices.get(file.parent if args.voice_folders else Path())


def _frames(predictor: Recogniser, file: Path) -> Frames | None:
    """What a voice is known by; None from a file that cannot be used, which is said when it is answered."""
    from ser.errors import AudioError

    try:
        return predictor.frames(file)
    except AudioError:
        return None


def _find(inputs: Sequence[Path]) -> tuple[list[Path], int]:
    """The recordings below the inputs, each once, in order; and how many inputs hold none."""
    from ser.audio.find import contents, note_of

    found: list[Path] = []
    n_bad = 0
    for path in inputs:
        is_folder = os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises for a name that is too long
        if is_folder:
            there = contents(path)
            below = there.paths
            if there.others:
                print(f"note: {path}: {note_of(there.others)}", file=sys.stderr)
        else:
            below = [path] if os.path.lexists(path) else []
        if not below:
            n_bad += 1
            what = f"There are no recordings in {path}" if is_folder else f"There is no file {path}"
            print(f"ser: {what}. Check the path.", file=sys.stderr)
        found += below
    return list(dict.fromkeys(found)), n_bad


def _outputs(args: argparse.Namespace, labels: Sequence[str], fingerprint: str) -> Iterator[ResultFile]:
    from ser.inference.output_files import JsonLines, ResultFile, Table

    if args.csv:
        yield ResultFile(args.csv, Table(labels, fingerprint))
    if args.out:
        yield ResultFile(args.out, JsonLines(labels, fingerprint))


def _report(file: Path, error: Exception, debug: bool) -> None:
    from ser.errors import SerError

    if debug:
        traceback.print_exception(error)
    reason = str(error) if isinstance(error, SerError) else f"{type(error).__name__}: {error}"
    print("ser: " + " ".join(f"{file}: {reason}".split()), file=sys.stderr)


def _readable(prediction: Prediction) -> str:
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    first, *others = [f"{label} {probability:.0%}" for label, probability in ranked]
    answer = first if prediction.confident else f"unsure, perhaps {first}"
    lines = [f"{prediction.file}: {answer} ({', '.join(others)}), {prediction.duration_s:.1f} s"]
    if prediction.timeline is not None:
        labels = list(prediction.probabilities)
        moves = prediction.timeline
        for start, end, row in zip(moves.start_s, moves.end_s, moves.probabilities, strict=True):
            lines.append(f"  {start:7.2f} - {end:7.2f} s  {labels[int(row.argmax())]} {row.max():.0%}")
    encoding = sys.stdout.encoding or "utf-8"
    return "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)


@contextlib.contextmanager
def _own_stderr() -> Iterator[None]:
    """Keep standard error for our own lines: the MP3 decoder writes remarks on damaged files past Python."""
    before, kept = sys.stderr, os.dup(STDERR)
    with contextlib.suppress(OSError, AttributeError):  # not a real stream
        if before.fileno() == STDERR:
            sys.stderr = os.fdopen(os.dup(kept), "w", buffering=1, encoding=before.encoding, errors="backslashreplace")
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        if sys.stderr is not before:
            sys.stderr.close()
            sys.stderr = before
