"""What the fuzzer feeds: a program of its own, so that a crash, a hang or a grab for memory ends it and not the tests.

In: lines of JSON on standard input, `{"target": name, "folder": where the input's files are}`. Out: one line each, what
came of it. Its memory is limited to `MEMORY_BYTES` above what it needs before the first input.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ser.audio.load import SAMPLE_RATE_HZ, load_audio, prepare, stream_audio
from ser.classifier.checkpoint import read_state
from ser.cli import folds as command
from ser.corpora.corpus import read_corpus
from ser.corpora.inspect import inspect_corpus
from ser.corpora.tables import read_labels
from ser.errors import AudioError, SerError
from ser.features.cache import FeatureCache
from ser.inference.graph_nodes import classifier_session
from ser.inference.output_files import JsonLines, ResultFile, Table
from ser.inference.recogniser import Recogniser
from ser.reporting.corpus_report import report_text
from ser.scoring.predictions import confusion_of, read_predictions
from ser.training.settings import CrossvalSettings, settings_from
from ser.ui.settings import AppSettings

MEMORY_BYTES = 512 << 20
CLIP = "clip.bin"
FRAMES = {"first": 3, "second": 5}  # utterances in the cached features, with their numbers of frames
DIM = 4
LABELS = ("anger", "neutral", "sadness")


def audio(folder: Path) -> Any:
    """The loader, the stream and the corpus check agree that it is a recording, or say why not."""
    with suppress(AudioError):
        for piece in islice(stream_audio(folder / CLIP, block_s=5.0), 20):
            assert np.isfinite(piece).all()
    samples = load_audio(folder / CLIP, 20.0)
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()
    assert float(np.abs(samples).max()) <= 1
    return samples.size / SAMPLE_RATE_HZ


def samples(folder: Path) -> Any:
    """`(rate, samples)` as a program hands them over."""
    told = json.loads((folder / "samples.json").read_text())
    with np.errstate(all="ignore"):
        values = np.array(told["values"], dtype=np.float64)
        given = np.resize(values, told["shape"]).astype(told["dtype"])
    prepared = prepare(given, told["rate_hz"])
    assert np.isfinite(prepared).all()
    return prepared.size


def checkpoint(folder: Path) -> Any:
    """Load a checkpoint, and let it answer."""
    described, state = read_state(folder)
    no_encoder = SimpleNamespace(speech_only=False)
    predictor = Recogniser(described, no_encoder, classifier_session(described, state), None)
    answer = predictor.classify(np.ones((40, described.encoder.dim), dtype=np.float32))
    assert np.isfinite(answer).all()
    assert abs(float(answer.sum()) - 1) < 1e-3
    return answer.tolist()


def corpus(folder: Path, name: str = "", decode: bool = True) -> Any:
    """Read a folder, or a table, as a corpus and report on it."""
    found = read_corpus(folder / name)
    report = inspect_corpus(found, decode)
    report_text(report).encode()
    json.loads(report.to_json())
    return found.fingerprint


def table(folder: Path) -> Any:
    return corpus(folder, "metadata.csv", decode=False)


def labels(folder: Path) -> Any:
    """A label file of ShEMO."""
    return len(read_labels(folder / "shemo.json", corrected=False))


def environment(folder: Path) -> Any:
    """The page's settings from environment variables."""
    return repr(AppSettings.from_environment(json.loads((folder / "environment.json").read_text())))


def hyperparameters(folder: Path) -> Any:
    """Settings of a training, for instance out of a study."""
    content = json.loads((folder / "settings.json").read_text())
    made = CrossvalSettings(*settings_from(content["training"]), **content["crossval"])
    assert "nan" not in repr(made)
    assert "inf" not in repr(made)
    return made


def features(folder: Path) -> Any:
    """Cached features: what is damaged is computed again, never used."""
    cache = FeatureCache(folder)
    found = cache.store(FakeEncoder(), {}).find(set(FRAMES))
    for key, cached in found.items():
        frames = cached.read()
        assert frames.shape == (cached.n_frames, *cached.frame_shape)
        assert cached.n_frames > 0
        if (folder / "unrepaired").exists():  # no checksum was made to fit: it must be what was written
            assert np.array_equal(frames, kept_frames(key)), key
    contents = [(one.name, one.n_clips) for one in cache.contents()]
    cache.clear()
    return len(found), contents


def predictions(folder: Path) -> Any:
    """The confusion matrix from `predictions.csv` alone."""
    return confusion_of(read_predictions(folder / "predictions.csv"), LABELS)


def results(folder: Path) -> Any:
    """A file of answers that an earlier run left."""
    path = folder / "results"
    form = JsonLines if path.read_bytes()[:1] == b"{" else Table
    with ResultFile(path, form(LABELS, "m1")) as file:
        return len(file.done)


def folds(folder: Path) -> Any:
    """`ser folds --csv CSV`, whose errors come through."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = ["--csv", str(folder / "folds.csv"), "--folds", "3", "--validation-share", "0.2"]
    return command.run(parser.parse_args([*words, *json.loads((folder / "words.json").read_text())]))


TARGETS: dict[str, Callable[[Path], Any]] = {
    one.__name__: one
    for one in (audio, samples, checkpoint, corpus, table, labels, environment, hyperparameters, features,
                predictions, results, folds)
}  # fmt: skip


class FakeEncoder:
    """Names the part of the cache that the fuzzer damages."""

    fingerprint, layer, name = "0123456789abcdef", 2, "fake"

    def __call__(self, utterances: list[Any], /) -> list[Any]:
        raise NotImplementedError


def kept_frames(key: str) -> Any:
    """`(frames, DIM)` float16 of a utterance of `FRAMES`."""
    return np.arange(FRAMES[key] * DIM, dtype=np.float16).reshape(-1, DIM) + len(key)


def outcome(target: str, folder: Path) -> dict[str, Any]:
    """What comes of an input: a result, an error with a message for people, or a defect with its traceback."""
    try:
        return {"result": repr(TARGETS[target](folder))[:200]}
    except SerError as error:
        return {"refused": str(error), "kind": type(error).__name__}
    except BaseException:
        return {"defect": traceback.format_exc(limit=-6)}


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["target"] == "limit":  # everything that is needed has been imported
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
            answer: dict[str, Any] = {"result": "limited"}
        else:
            answer = outcome(asked["target"], Path(asked["folder"]))
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
