"""Whatever is given, it ends in a result or in one `SerError` with a message: no crash, no hang, no grab for memory.

`python -m pytest tests/test_fuzz.py` tries a few hundred inputs, always the same ones; `-m slow` ten times as many.
`SER_FUZZ=10000 python -m pytest -m slow tests/test_fuzz.py` tries that many in all, others every time.
What it found is below as plain tests, so that it stays found.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz_inputs import Input, inputs, seeds
from fuzz_support import LABELS, TARGETS, FakeEncoder, kept_frames
from hypothesis import HealthCheck, given, settings
from support import ROOT

from ser.classifier.checkpoint import read_description
from ser.corpora.corpus import read_corpus
from ser.corpora.inspect import inspect_corpus
from ser.corpora.tables import read_labels
from ser.errors import CheckpointError, CorpusError, JobError, SettingsError
from ser.features.cache import FeatureCache
from ser.inference.output_files import JsonLines, ResultFile
from ser.scoring.calibration import Calibration
from ser.scoring.predictions import confusion_of, read_predictions
from ser.ui.jobs import look
from ser.ui.settings import AppSettings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")

HANG_S = 120.0
# Inputs of each target in a quick run; the decoders, which are native code, take most.
SHARES = {"audio": 60, "checkpoint": 50, "corpus": 30, "folds": 20} | dict.fromkeys(
    ["samples", "table", "labels", "environment", "hyperparameters", "features", "predictions", "results"], 20
)
TOTAL = int(os.environ.get("SER_FUZZ", "0"))


class Child:
    """The program that takes the inputs; started again after it was brought down."""

    def __init__(self, folder: Path, valid: dict[str, Input]) -> None:
        self.folder, self.valid = folder, valid
        self.process: subprocess.Popen[str] | None = None

    def ask(self, target: str, files: Input) -> dict[str, Any]:
        """What comes of an input."""
        if self.process is None:
            self._start()
        return self._answer(target, files)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _start(self) -> None:
        single = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/fuzz_support.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, stderr=(self.folder / "stderr").open("a"), env=os.environ | single,
        )  # fmt: skip
        for target, files in self.valid.items():  # valid ones: whatever is imported late is imported now
            answer = self._answer(target, files)
            assert "result" in answer, answer
        self._answer("limit", {})

    def _answer(self, target: str, files: Input) -> dict[str, Any]:
        folder = self.folder / "input"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write(folder, files)
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"target": target, "folder": str(folder)}) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], HANG_S)
        line = self.process.stdout.readline() if ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self.process.poll()
        self.close()
        return {"defect": f"hung for {HANG_S} s" if not ready else f"the process ended with {code}"}


def write(folder: Path, files: Input) -> None:
    """The files of an input; those that a file system cannot hold are left out."""
    for name, content in files.items():
        path = folder / name
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir(exist_ok=True)
            elif isinstance(content, Path):
                path.symlink_to(content)
            else:
                path.write_bytes(content)


@pytest.fixture(scope="module")
def strategies(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = seeds(tiny_checkpoint, tmp_path_factory.mktemp("seeds"))
    return {"seeds": made, **inputs(made)}


@pytest.fixture(scope="module")
def child(strategies: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    made = strategies["seeds"]
    foldable = [f"{n}.wav,s{n % 12},{LABELS[n // 12 % 3]}" for n in range(72)]
    samples = b'{"values": [0, 1], "shape": [9000], "dtype": "float32", "rate_hz": 44100}'
    valid: dict[str, Input] = {
        "audio": {"clip.bin": made["audio"]["adpcm"]},
        "checkpoint": made["checkpoint"],
        "corpus": {"F03S02.wav": made["audio"]["wav"], "M03A02.flac": made["audio"]["flac"]},
        "table": {"metadata.csv": b"path,speaker,emotion\nclip0.wav,s1,anger\n", "clip0.wav": b""},
        "predictions": made["predictions"],
        "features": {**made["features"], "unrepaired": b""},
        "folds": {"folds.csv": "\n".join(["file,speaker,emotion", *foldable]).encode(), "words.json": b"[]"},
        "hyperparameters": {"settings.json": b'{"training": {}, "crossval": {}}'},
        "samples": {"samples.json": samples},
    }
    child = Child(tmp_path_factory.mktemp("fuzz"), valid)
    yield child
    child.close()


def fuzz(target: str, strategies: dict[str, Any], child: Child, n: int, same: bool) -> None:
    quiet: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

    @settings(max_examples=n, derandomize=same, **quiet)
    @given(strategies[target])
    def ends_well(files: Input) -> None:
        answer = child.ask(target, files)
        assert "defect" not in answer, answer["defect"]
        message = answer.get("refused", "a result needs none")
        assert " " in message, message
        n_given = sum(len(content) for content in files.values() if isinstance(content, bytes))
        assert len(message) < 2_000 + n_given

    ends_well()


@pytest.mark.parametrize("target", TARGETS)
def test_an_input_ends_in_a_result_or_a_sentence(target, strategies, child):
    fuzz(target, strategies, child, SHARES[target] // 2, same=True)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_many_inputs_end_in_a_result_or_a_sentence(target, strategies, child):
    total = TOTAL or 5 * sum(SHARES.values())
    fuzz(target, strategies, child, -(-total * SHARES[target] // sum(SHARES.values())), same=not TOTAL)


# ---- what it found ----------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "value"),
    [("GRADIO_SERVER_PORT", "1" + 400 * "0"), ("SER_QUEUE_LENGTH", 5_000 * "9"), ("SER_CORPORA", 300 * "a")],
)
def test_a_setting_that_no_number_or_path_can_hold_is_refused_by_its_name(name, value):
    with pytest.raises(SettingsError, match=name):
        AppSettings.from_environment({name: value})


@pytest.mark.parametrize("about", ['{"settings": 5}', '{"settings": ["abc"]}', DEEP, "[]"])
def test_the_cache_is_shown_although_its_description_is_damaged(tmp_path, about):
    store = FeatureCache(tmp_path).store(FakeEncoder(), {})
    store.add("first", kept_frames("first"))
    store.flush()
    (store.folder / "encoder.json").write_text(about)
    [shown] = FeatureCache(tmp_path).contents()
    assert (shown.settings, shown.n_clips) == ({}, 1)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (b"\xff\xfe", "cannot be read as a table"), (b"1," + 140_000 * b"a", "cannot be read as a table"),
        (b"1.wav,s1,one,anger,anger,1,0,0", "Row 1 of"), (b"1.wav,s1,1,anger,anger,1", "Row 1 of"),
        (b"1.wav,s1,,anger,anger,1,0,0", "Row 1 of"), (b"1.wav,s1,1,anger,anger,1,0,0,0", "Row 1 of"),
        (b"1.wav,s1,1,anger,anger,nan,0,0", "probability"), (b"1.wav,s1,1,anger,anger,much,0,0", "probability"),
        (b"1.wav,s1,1,anger,anger,1e400,0,0", "probability"), (b"1.wav,s1,1,anger,anger,-1,0,0", "probability"),
    ],
)  # fmt: skip
def test_predictions_that_were_damaged_are_refused_with_the_reason(tmp_path, found, words):
    header = b"file,speaker,fold,emotion,predicted,anger,neutral,sadness\n"
    (tmp_path / "predictions.csv").write_bytes(header + found)
    with pytest.raises(JobError, match=words):
        confusion_of(read_predictions(tmp_path / "predictions.csv"), LABELS)


def test_json_that_is_nested_beyond_all_measure_is_refused(tmp_path, tiny_checkpoint):
    (tmp_path / "shemo.json").write_text(DEEP)
    with pytest.raises(CorpusError, match="label file"):
        read_labels(tmp_path / "shemo.json", corrected=False)
    (tmp_path / "model.json").write_text(DEEP)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_description(tmp_path)
    (tmp_path / "answers.jsonl").write_text('{"file": "' + f'a", "b": {DEEP}}}\n')
    with pytest.raises(SettingsError, match="something other"):
        ResultFile(tmp_path / "answers.jsonl", JsonLines(LABELS, "m1"))
    (tmp_path / "job.json").write_text(DEEP)
    assert look(tmp_path).state == "never"


def test_a_table_may_list_a_name_that_no_file_can_have(tmp_path):
    (tmp_path / "clip.wav").write_bytes(b"")
    lines = ["path,speaker,emotion", "clip.wav,s1,anger", f"{300 * 'a'},s2,fear", "/,s3,fear"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    corpus = read_corpus(tmp_path)
    report = inspect_corpus(corpus, decode=False)
    assert len(corpus.utterances) == 3
    assert [problem.kind for problem in report.problems] == ["missing"] * 2


@pytest.mark.parametrize("temperature", [10**400, 1e-310, 5e-324, 1e308])
def test_a_temperature_that_leaves_no_probabilities_is_refused(temperature):
    with pytest.raises(SettingsError, match="temperature"):
        Calibration(temperature)
