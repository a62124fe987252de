"""A checkpoint comes back bit for bit; what does not belong together is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from support import ROOT

from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings
from ser.classifier.checkpoint import (
    DESCRIPTION,
    WEIGHTS,
    check_encoder,
    load_checkpoint,
    read_description,
    save_checkpoint,
)
from ser.encoders.encoder import Encoder
from ser.errors import CheckpointError, SettingsError
from ser.files import write_atomically
from ser.scoring.calibration import Calibration

SOURCES = sorted((ROOT / "ser").rglob("*.py"))


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def describe(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description in place."""
    content = json.loads((folder / DESCRIPTION).read_text())
    change(content)
    (folder / DESCRIPTION).write_text(json.dumps(content))


def replace_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the weights, and the description so that it knows the new file."""
    tensors = load((folder / WEIGHTS).read_bytes())
    change(tensors)
    content = save(tensors)
    (folder / WEIGHTS).write_bytes(content)
    describe(folder, lambda d: d.update(weights_sha256=hashlib.sha256(content).hexdigest()))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    return str(caught.value)


# ---- there and back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["last", "attentive"])
def test_a_saved_model_comes_back_bit_for_bit(tiny_checkpoint, tmp_path, pooling):
    described = read_description(tiny_checkpoint)
    settings = ClassifierSettings(base_units=6, final_units=4, gru_layers=3, dropout=0.35, pooling=pooling)
    model = BiGRUClassifier(described.encoder.dim, len(described.labels), settings)
    for parameter in model.parameters():
        parameter.data.normal_()
    checkpoint = type(described)(
        labels=("b", "a", "خشم", "d", "e", "f"),
        encoder=described.encoder, classifier=settings, max_frames=123,
        calibration=Calibration(0.1 + 0.2, 1 / 3, None, 0.7), training={"epochs": 7, "sgd": {"lr": 0.003}},
        scores={"wa": {"value": 2 / 3}}, data={"x": ["y"]}, seed=7, versions={"torch": "2"},
    )  # fmt: skip
    again, loaded = load_checkpoint(save_checkpoint(tmp_path / "new" / "folder", checkpoint, model))
    assert again == checkpoint
    assert not loaded.training
    state = model.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in loaded.state_dict().items())
    frames = torch.randn(9, described.encoder.dim)
    lengths = torch.tensor([4, 5])
    assert torch.equal(model.eval()(frames, lengths), loaded(frames, lengths))


def test_saving_twice_gives_the_same_bytes(tiny_checkpoint, tmp_path):
    checkpoint, model = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path, checkpoint, model)
    for name in (WEIGHTS, DESCRIPTION):
        assert (tmp_path / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([WEIGHTS, DESCRIPTION])


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


# ---- what is refused --------------------------------------------------------------------------------------


def test_missing_and_damaged_files_are_refused(folder):
    assert "no checkpoint" in refusal(folder / "elsewhere")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-10])
    assert "damaged" in refusal(folder)
    (folder / WEIGHTS).write_bytes(b"")
    assert "damaged" in refusal(folder)
    (folder / WEIGHTS).unlink()
    assert "missing" in refusal(folder)
    (folder / WEIGHTS).write_bytes(whole)
    (folder / DESCRIPTION).write_text('{"format": ')
    assert "JSON" in refusal(folder)
    (folder / DESCRIPTION).write_text('["a list"]')
    assert "format" in refusal(folder)
    (folder / DESCRIPTION).write_bytes(b"\xff\xfe\x00")
    assert "JSON" in refusal(folder)


def test_weights_of_another_training_are_refused(folder):
    tensors = load((folder / WEIGHTS).read_bytes())
    tensors["dense.bias"] += 1e-7
    (folder / WEIGHTS).write_bytes(save(tensors))
    assert "not the file that model.json beside it describes" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("dense.bias"), r"missing \['dense.bias'\]"),
        (lambda t: t.update(spy=torch.zeros(1)), r"unknown \['spy'\]"),
        (lambda t: t.update({"dense.bias": torch.zeros(7)}), "shape"),
        (lambda t: t.update({"dense.bias": torch.zeros(6).double()}), "float64"),
        (lambda t: t.update({"dense.bias": torch.full((6,), torch.nan)}), "not finite"),
    ],
)
def test_weights_that_do_not_fit_the_description_are_refused(folder, change, words):
    replace_weights(folder, change)
    assert re.search(words, refusal(folder))


@pytest.mark.parametrize(
    "key",
    ["labels", "encoder", "classifier", "max_frames", "calibration", "training", "scores", "data", "seed",
     "versions", "weights_sha256"],
)  # fmt: skip
def test_a_description_without_one_of_its_entries_is_refused(folder, key):
    describe(folder, lambda d: d.pop(key))
    assert f"lacks the entry '{key}'" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format="somebody else's"),
        lambda d: d.update(labels="abcdef"),
        lambda d: d.update(labels=["anger"] * 6),
        lambda d: d.update(labels=["anger"]),
        lambda d: d.update(labels=[1, 2, 3, 4, 5, 6]),
        lambda d: d["labels"].append("boredom"),
        lambda d: d.update(max_frames=0),
        lambda d: d.update(max_frames=True),
        lambda d: d.update(max_frames="300"),
        lambda d: d.update(scores="good"),
        lambda d: d.update(encoder=None),
        lambda d: d["encoder"].pop("fingerprint"),
        lambda d: d["encoder"].update(dim="32"),
        lambda d: d["encoder"].update(dim=-1),
        lambda d: d["encoder"].update(dim=10**30),
        lambda d: d["encoder"].update(dim=64),
        lambda d: d["classifier"].update(dropout=1.5),
        lambda d: d["classifier"].update(dropout="0.2"),
        lambda d: d["classifier"].update(pooling="mean"),
        lambda d: d["classifier"].update(gru_layers=0),
        lambda d: d["classifier"].update(gru_layers=10**12),
        lambda d: d["classifier"].update(base_units=10**12),
        lambda d: d["classifier"].update(base_units=8.5),
        lambda d: d["classifier"].update(extra=1),
        lambda d: d["calibration"].update(temperature=0),
        lambda d: d["calibration"].update(temperature=float("inf")),
        lambda d: d["calibration"].update(temperature=float("nan")),
        lambda d: d["calibration"].update(threshold=2),
        lambda d: d["calibration"].update(precision="high"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused_before_anything_is_built(folder, change):
    describe(folder, change)
    assert len(refusal(folder)) < 1_000


def test_the_description_can_be_read_without_the_weights(folder):
    (folder / WEIGHTS).unlink()
    assert read_description(folder).max_frames == 100


def test_a_foreign_encoder_is_refused(tiny_checkpoint, tiny_encoder):
    checkpoint = read_description(tiny_checkpoint)
    check_encoder(checkpoint, Encoder.load(tiny_encoder))
    with pytest.raises(CheckpointError, match="layer 1"):
        check_encoder(checkpoint, Encoder.load(tiny_encoder, layer=1))


def test_calibrations_that_mean_nothing_cannot_be_made():
    for values in ({"temperature": -1.0}, {"threshold": 1.02}, {"threshold": float("nan")}):
        with pytest.raises(SettingsError):
            Calibration(**values)


def test_nothing_in_the_package_unpickles_or_evaluates():
    forbidden = re.compile(r"\bpickle|joblib|\btorch\.(load|save)\(|allow_pickle=True|[^.\w](eval|exec)\(|shell=True")
    found = {path.name: forbidden.findall(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {name: hits for name, hits in found.items() if hits} == {}
    assert len(SOURCES) > 20
