"""ONNX Runtime computes the frames that torch does, from a cached graph that nobody else can have written."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import voice
from test_encoder import KINDS, UNEQUAL, folders  # noqa: F401  the fixture

from ser.classifier.checkpoint import read_description
from ser.encoders import trace
from ser.encoders.encoder import Encoder
from ser.encoders.graph import GraphEncoder, graph_name
from ser.files import SHIPPED_CLASSIFIER, SHIPPED_ENCODER

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners of files are POSIX's")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder that graphs go to."""
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoders"


@pytest.fixture
def expected(tiny_encoder: Path) -> np.ndarray:
    return Encoder.load(tiny_encoder, engine="torch")([voice()])[0]


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return ours.shape == theirs.shape and bool(np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_give_the_same_frames_of_every_kind_and_length(folders, kind):  # noqa: F811
    for layer, n_stacked in ((None, 0), (1, 2)):
        by_torch = Encoder.load(folders[kind], layer, engine="torch").stacked(n_stacked)
        by_onnx = Encoder.load(folders[kind], layer).stacked(n_stacked)
        assert by_torch.engine == f"torch {torch.__version__.split('+')[0]}"
        assert by_onnx.engine == f"onnxruntime {onnxruntime.__version__}"
        for ours, theirs in zip(by_onnx(UNEQUAL), by_torch(UNEQUAL), strict=True):
            assert close(ours, theirs)


def test_a_graph_is_traced_once_and_then_read_from_the_cache(tiny_encoder, cache, expected, monkeypatch):
    assert close(Encoder.load(tiny_encoder)([voice()])[0], expected)
    (path,) = cache.iterdir()
    assert path.name.startswith(Encoder.load(tiny_encoder).fingerprint)
    monkeypatch.setattr(trace, "trace", lambda *_: pytest.fail("traced again"))
    assert close(Encoder.load(tiny_encoder)([voice()])[0], expected)


def test_layers_and_weights_have_graphs_of_their_own(tiny_encoder, cache):
    for layer, n_stacked in ((2, 0), (1, 0), (2, 3)):
        assert Encoder.load(tiny_encoder, layer).stacked(n_stacked).engine.startswith("onnxruntime")
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"not a graph", "half", "another"])
def test_a_cached_graph_that_is_cut_or_replaced_is_traced_again(tiny_encoder, cache, expected, damage):
    Encoder.load(tiny_encoder)([voice()])
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    if damage == "another":  # a sound graph, of other weights
        Encoder.load(tiny_encoder, layer=0)([voice()])
        damage = next(other for other in cache.iterdir() if other != path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "half" else damage)
    assert close(Encoder.load(tiny_encoder)([voice()])[0], expected)
    assert Encoder.load(tiny_encoder).engine.startswith("onnxruntime")
    (again,) = (one for one in cache.iterdir() if one.name.startswith(Encoder.load(tiny_encoder).fingerprint))
    assert again.stat().st_size == len(whole)


@posix
def test_a_folder_that_others_can_write_into_is_neither_read_nor_written(tiny_encoder, cache, expected, caplog):
    Encoder.load(tiny_encoder)([voice()])
    (path,) = cache.iterdir()
    path.write_bytes(b"planted")
    cache.chmod(0o777)
    encoder = Encoder.load(tiny_encoder)
    assert close(encoder([voice()])[0], expected)
    assert encoder.engine.startswith("onnxruntime")
    assert path.read_bytes() == b"planted"
    assert "can be written by other users" in caplog.text


@posix
def test_a_graph_that_others_can_write_is_replaced_by_one_of_ours(tiny_encoder, cache, expected):
    Encoder.load(tiny_encoder)([voice()])
    (path,) = cache.iterdir()
    path.chmod(0o666)
    assert close(Encoder.load(tiny_encoder)([voice()])[0], expected)
    (path,) = cache.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_or_graph_of_another_user_is_not_used(tiny_encoder, cache, expected):
    Encoder.load(tiny_encoder)([voice()])
    (path,) = cache.iterdir()
    os.chown(path, 1234, -1)
    assert close(Encoder.load(tiny_encoder)([voice()])[0], expected)
    (path,) = cache.iterdir()
    assert path.stat().st_uid == 0
    path.write_bytes(b"planted")
    os.chown(cache, 1234, -1)
    assert close(Encoder.load(tiny_encoder)([voice()])[0], expected)
    assert path.read_bytes() == b"planted"


def test_a_cache_that_cannot_be_written_costs_only_the_tracing(tiny_encoder, tmp_path, expected, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "file"))
    encoder = Encoder.load(tiny_encoder)
    assert close(encoder([voice()])[0], expected)
    assert encoder.engine.startswith("onnxruntime")


def test_without_onnxruntime_torch_computes_and_it_is_said_once(tiny_encoder, cache, expected, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    encoder = Encoder.load(tiny_encoder)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(encoder([voice()])[0], expected)
        encoder([voice()])
    assert encoder.engine.startswith("torch")
    assert caplog.text.count("ONNX Runtime cannot compute this encoder") == 1


def test_a_model_whose_trace_is_wrong_at_other_lengths_stays_with_torch(tiny_encoder, cache, caplog):
    class Unfaithful(torch.nn.Module):
        """Its trace holds the length that it was traced at as a constant."""

        def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
            return (waveforms * float(waveforms.shape[1]))[..., None]

    encoder = Encoder.load(tiny_encoder)
    encoder.frames = Unfaithful()
    assert encoder([np.ones(4000, np.float32)])[0][0] == 4000
    assert "differs from torch" in caplog.text
    assert not list(cache.glob("*"))


def test_the_session_has_torch_s_threads_and_they_do_not_spin(tiny_encoder):
    encoder = Encoder.load(tiny_encoder)
    encoder([voice()])
    session = GraphEncoder.find(encoder.fingerprint, str(tiny_encoder)).session
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            options = session.within_threads().get_session_options()
            assert options.intra_op_num_threads == n_threads
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    finally:
        torch.set_num_threads(before)


# ---- a graph in the encoder's folder ----------------------------------------------------------------------


@pytest.fixture
def folder(tiny_encoder, tmp_path):
    """An encoder of half precision, with the graph of two of its layers beside its weights."""
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value.half() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    Encoder.load(folder).stacked(2).write_graph()
    return folder


def test_a_graph_in_the_folder_gives_the_frames_of_torch_and_holds_no_weights_itself(folder, cache):
    by_torch = Encoder.load(folder, engine="torch").stacked(2)
    (path,) = folder.glob("*.onnx")
    weights = sum(value.nbytes for value in load_file(folder / "model.safetensors").values())
    held = onnx.load(path, load_external_data=False).graph.initializer
    left = {one.name: int(one.external_data[2].value) for one in held if one.external_data}
    assert sum(left.values()) > weights / 2
    found = GraphEncoder.find(by_torch.fingerprint, str(folder))
    assert (found.overlap, found.normalise) == (by_torch.overlap, False)
    for ours, theirs in zip(found(UNEQUAL), by_torch(UNEQUAL), strict=True):
        assert close(ours, theirs)
    assert not list(cache.glob("*"))
    assert Encoder.load(folder).stacked(2).engine.startswith("onnxruntime")
    assert not list(cache.glob("*"))


def test_a_graph_is_of_its_own_layers_and_weights_only(folder, cache, caplog):
    encoder = Encoder.load(folder, engine="torch")
    assert GraphEncoder.find(encoder.fingerprint, str(folder)) is None  # of one layer
    fingerprint = encoder.stacked(2).fingerprint
    (path,) = folder.glob("*.onnx")
    whole = path.read_bytes()
    path.rename(folder / graph_name("0" * 16))
    assert GraphEncoder.find("0" * 16, str(folder)) is None
    assert f"the graph of {fingerprint}" in caplog.text
    (folder / graph_name("0" * 16)).unlink()
    path.write_bytes(whole[: len(whole) // 2])
    assert GraphEncoder.find(fingerprint, str(folder)) is None
    path.write_bytes(whole)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert GraphEncoder.find(fingerprint, str(folder)) is None
    assert "not the file that it was made of" in caplog.text


@pytest.mark.skipif(not (SHIPPED_CLASSIFIER / "model.json").exists(), reason="no model ships in this tree")
def test_the_graph_that_ships_is_of_the_encoder_that_ships(cache):
    encoder = Encoder.load("shipped", engine="torch").stacked(read_description().classifier.stacked_layers)
    assert [path.name for path in SHIPPED_ENCODER.glob("*.onnx")] == [graph_name(encoder.fingerprint)]
    found = GraphEncoder.find(encoder.fingerprint, "shipped")
    assert found.session.description.fingerprint == encoder.fingerprint
    assert (found.normalise, found.speech_only, found.overlap) == (False, True, 0)
    for ours, theirs in zip(found(UNEQUAL), encoder(UNEQUAL), strict=True):
        assert close(ours, theirs)
    assert sum(path.stat().st_size for path in SHIPPED_ENCODER.iterdir()) <= 24_000_000
