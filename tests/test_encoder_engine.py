"""ONNX Runtime computes the frames that torch does, from a cached graph that nobody else can have written."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import voice
from test_encoder import KINDS, UNEQUAL, folders  # noqa: F401  the fixture

from ser.encoders import graph
from ser.encoders.encoder import Encoder

onnxruntime = pytest.importorskip("onnxruntime")

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
    monkeypatch.setattr(graph, "trace", lambda *_: pytest.fail("traced again"))
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
def test_a_folder_that_others_can_write_into_is_neither_read_nor_written(
    tiny_encoder, cache, expected, caplog
):
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


def test_without_onnxruntime_torch_computes_and_it_is_said_once(
    tiny_encoder, cache, expected, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    encoder = Encoder.load(tiny_encoder)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(encoder([voice()])[0], expected)
        encoder([voice()])
    assert encoder.engine.startswith("torch")
    assert caplog.text.count("ONNX Runtime cannot compute this encoder") == 1


def test_a_model_whose_trace_is_wrong_at_other_lengths_stays_with_torch(cache, caplog):
    class Unfaithful(torch.nn.Module):
        """Its trace holds the length that it was traced at as a constant."""

        def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
            return (waveforms * float(waveforms.shape[1]))[..., None]

    frames = graph.OnnxFrames(Unfaithful(), "unfaithful")
    assert frames(np.ones((1, 4000), np.float32)) is None
    assert "differs from torch" in caplog.text
    assert not list(cache.iterdir())


def test_the_session_has_torch_s_threads_and_they_do_not_spin(tiny_encoder):
    frames = graph.OnnxFrames(Encoder.load(tiny_encoder).frames, Encoder.load(tiny_encoder).fingerprint)
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            options = frames.session().get_session_options()
            assert options.intra_op_num_threads == n_threads
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    finally:
        torch.set_num_threads(before)
