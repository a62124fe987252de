"""What commands do before their own work: the corpus, its features and the model that the options name; how far they
are, and whether to stop."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ser.classifier.checkpoint import EncoderReference
    from ser.corpora.corpus import Corpus
    from ser.encoders.encoder import Encoder
    from ser.features.extract import FeatureSet

PROGRESS_VARIABLE, PROGRESS_PAUSE_S = "SER_PROGRESS", 0.5


class Stage:
    """How far a stage of a command is: a bar where there is a terminal, and the file that SER_PROGRESS names."""

    def __init__(self, name: str, bar: Callable[[int, int], None] | None = None) -> None:
        self.name, self.bar, self.path = name, bar, os.environ.get(PROGRESS_VARIABLE)
        self.started, self.written, self.first = time.time(), 0.0, 0

    def __call__(self, done: int, total: int) -> None:
        """So many of so many are done."""
        from ser.files import write_json

        if self.bar is not None:
            self.bar(done, total)
        now = time.time()
        if self.path is None or (now - self.written < PROGRESS_PAUSE_S and done < total):
            return
        if not self.written:
            self.started, self.first = now, done
        self.written = now
        about = {"stage": self.name, "done": done, "total": total, "first": self.first}
        with suppress(OSError):  # a full disk is said by what cannot do without it
            write_json(Path(self.path), {**about, "started": self.started, "updated": now})


def named_model(args: argparse.Namespace) -> tuple[Sequence[str], str]:
    """The emotions of the model that answers and its fingerprint, read before any work."""
    from ser.classifier.checkpoint import read_description, read_fingerprint
    from ser.files import SHIPPED_CLASSIFIER
    from ser.inference.model_file import is_model_file, read_file_description

    model = args.checkpoint or SHIPPED_CLASSIFIER
    if is_model_file(model):
        labels = list(read_file_description(model)["checkpoint"]["labels"])
        return labels, hashlib.sha256(model.read_bytes()).hexdigest()[:16]
    return read_description(model).labels, read_fingerprint(model)


def check_writable(folder: Path) -> None:
    """Raise `OSError` where nothing can be written at or below a folder, which may be missing; for before long work."""
    folder = folder.absolute()
    place = next(one for one in (folder, *folder.parents) if one.exists())
    with tempfile.TemporaryFile(dir=place):
        pass


def read_corpus_arguments(args: argparse.Namespace) -> Corpus:
    """The corpus that the arguments name, unusable labels left out as asked; what was left out is in `skipped`."""
    from ser.corpora.corpus import read_corpora

    corpus = read_corpora(args.corpus, args.labels, args.metadata)
    for one in corpus.skipped:
        print(f"left out {one.path}: {one.reason}", file=sys.stderr)
    for note in corpus.notes:
        print(f"note: {note}", file=sys.stderr)
    return select_emotions(_without_speakers(corpus, args.without_speakers), args.emotions)


def _without_speakers(corpus: Corpus, names: str | None) -> Corpus:
    """The corpus without the speakers of `--without-speakers`, each `CORPUS:SPEAKER` or, of one corpus, `SPEAKER`."""
    from ser.errors import CorpusError

    if not names:
        return corpus
    left_out = set(names.split(","))
    if unknown := left_out - {*corpus.named_speakers, *corpus.speakers}:
        raise CorpusError(
            f"--without-speakers names {', '.join(sorted(unknown))}, who are not in the corpus. "
            f"It has {', '.join(corpus.named_speakers)}."
        )
    named = dict(zip(corpus.speakers, corpus.named_speakers, strict=True))
    kept = [one for one in corpus.utterances if not {one.speaker, named[one.speaker]} & left_out]
    return replace(corpus, utterances=tuple(kept))


def select_emotions(corpus: Corpus, emotions: str | None) -> Corpus:
    """The corpus with the emotions of `--emotions` alone; the others are named and kept in `skipped`."""
    from ser.corpora.corpus import Skipped, keep_emotions
    from ser.labels import EMOTIONS

    if not emotions:
        return corpus
    kept, dropped = keep_emotions(corpus, EMOTIONS if emotions == "six" else emotions.split(","))
    for emotion, count in dropped.items():
        print(f"left out {count} utterances of {emotion}, which is not among --emotions", file=sys.stderr)
    others = [one for one in corpus.utterances if one.emotion in dropped]
    skipped = [Skipped(one.path, f"{one.emotion} is not among --emotions") for one in others]
    return replace(kept, skipped=(*corpus.skipped, *skipped))


def load_encoder(source: str, layer: int | None, n_layers: int = 0) -> tuple[Encoder, EncoderReference]:
    """An encoder, of `n_layers` layers if not 0, and the reference that a checkpoint keeps of it."""
    from ser.classifier.checkpoint import EncoderReference
    from ser.encoders.encoder import Encoder

    encoder = Encoder.load(source, layer).stacked(n_layers)
    return encoder, EncoderReference(encoder.source, encoder.layer, encoder.fingerprint, encoder.dim, encoder.engine)


def prepare_features(args: argparse.Namespace) -> tuple[Corpus, FeatureSet, EncoderReference]:
    """Corpus, features and encoder of a command; what cannot be used is reported, left out, and kept in `skipped`."""
    corpus = read_corpus_arguments(args)
    if getattr(args, "check", False):
        corpus = leave_out_unusable(corpus)
    layers = getattr(args, "weighted_layers", 0) or getattr(args, "concatenated_layers", 0)
    copies = getattr(args, "augmented_copies", 0)
    return encode(corpus, args, layers, copies)


def encode(
    corpus: Corpus, args: argparse.Namespace, n_layers: int, n_copies: int
) -> tuple[Corpus, FeatureSet, EncoderReference]:
    """A corpus through the encoder that the arguments name, so many layers of it, and so many augmented copies."""
    from ser.corpora.corpus import Skipped
    from ser.features.address import open_cache
    from ser.features.extract import progress_bar, usable_features, with_copies

    encoder, reference = load_encoder(args.encoder, args.layer, n_layers)
    with sharing(args) as executor:
        if executor:
            share_extraction(executor, [one.path for one in corpus.utterances], args, n_layers, n_copies)
    progress = Stage("features", progress_bar())
    cache = open_cache(args.cache)
    corpus, features, left_out = usable_features(corpus, encoder, cache, progress)
    for path, message in left_out:
        print(f"left out {path}: {message}", file=sys.stderr)
    corpus = replace(corpus, skipped=(*corpus.skipped, *(Skipped(*one) for one in left_out)))
    return corpus, with_copies(corpus, features, encoder, n_copies, cache), reference


def is_shared(args: argparse.Namespace) -> bool:
    """Whether `--scheduler` or `--processes` share the work out."""
    return bool(args.scheduler) or args.processes > 1


@contextmanager
def sharing(args: argparse.Namespace) -> Iterator[Executor | None]:
    """What the work is shared out to; None where it is not."""
    from ser.workers import pool

    if not is_shared(args):
        yield None
        return
    with pool(args.scheduler, args.processes, lambda line: print(line, file=sys.stderr)) as executor:
        yield executor


def share_extraction(
    executor: Executor, paths: Sequence[Path], args: argparse.Namespace, n_layers: int = 0, n_copies: int = 0
) -> int:
    """Have features computed into the cache; returns how many had to be."""
    from ser.features.extract import progress_bar
    from ser.features.share import Piece, extract_on

    source = str(Path(args.encoder).resolve()) if Path(args.encoder).is_dir() else args.encoder
    how = Piece((), source, args.layer, n_layers, args.cache)
    return extract_on(executor, paths, how, n_copies, Stage("features", progress_bar("on workers")))


def leave_out_unusable(corpus: Corpus) -> Corpus:
    """The corpus without the recordings that the rules of `ser corpus` drop; prints which, and what is kept."""
    from ser.corpora.corpus import Skipped
    from ser.corpora.inspect import inspect_corpus, usable
    from ser.features.extract import progress_bar

    report = inspect_corpus(corpus, progress=Stage("checking", progress_bar("checking")))
    kept = usable(corpus, report)
    path_of = {corpus.file_of(one.path): one.path for one in corpus.utterances}
    problems = [one for one in report.problems if one.file in path_of]
    dropped = [Skipped(path_of[one.file], f"{one.kind}: {one.reason}") for one in problems if one.dropped]
    for skipped in dropped:
        print(f"left out {skipped.path}: {skipped.reason}", file=sys.stderr)
    for kind, count in Counter(one.kind for one in problems if not one.dropped).items():
        print(f"kept {count} recordings despite: {kind}", file=sys.stderr)
    return replace(kept, skipped=(*corpus.skipped, *dropped))


def stop_on_signals() -> Callable[[], bool]:
    """A function that says whether to stop: after the first Ctrl-C or SIGTERM; a second Ctrl-C stops at once."""
    received: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return lambda: bool(received)
