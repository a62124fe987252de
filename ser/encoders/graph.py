"""A frozen encoder as an ONNX graph, which ONNX Runtime computes faster than torch on a processor.

In: frames as a torch module. Out: the same frames of `(batch, samples)`, for any number and length of waveforms. The
graph is traced once and cached as `SER_CACHE/encoders/FINGERPRINT-VERSIONS-SHA256.onnx`. Only a cached file that has
that SHA-256, and that no other user of the machine can have written, reaches ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ser.audio.load import SAMPLE_RATE_HZ
from ser.files import cache_folder, write_atomically

FORMAT = 1  # part of every name: raise it when what is traced changes
OPSET = 17
TOLERANCE = 1e-3  # between a fresh graph and torch, of the largest value
LONG_S = 20  # after a waveform longer than that, memory goes back to the system

log = logging.getLogger(__name__)


class OnnxFrames:
    """Frames computed by ONNX Runtime, cached under a fingerprint; safe to call from several threads."""

    def __init__(self, frames: nn.Module, fingerprint: str) -> None:
        self.frames, self.fingerprint = frames, fingerprint
        self._lock = threading.Lock()
        self._session: Any = None
        self._threads, self._impossible = 0, False

    def __call__(self, waveforms: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Compute frames; None where ONNX Runtime cannot, which is logged once."""
        session = self.session()
        try:
            return None if session is None else _run(session, waveforms)
        except Exception as error:  # onnxruntime's classes have no common base
            self._give_up(error)
            return None

    def session(self) -> Any:
        """The session, with as many threads as torch has in the calling thread; None where there can be none."""
        with self._lock:
            threads = torch.get_num_threads()
            if not self._impossible and self._threads != threads:
                try:
                    self._session, self._threads = self._new_session(threads), threads
                except Exception as error:  # tracer and onnxruntime raise whatever the model leads to
                    self._give_up(error)
            return self._session

    def _new_session(self, threads: int) -> Any:
        """A session of the cached graph, else of one that is traced, compared with torch, and cached."""
        import onnxruntime
        import transformers

        versions = f"{FORMAT} {torch.__version__} {transformers.__version__} {onnxruntime.__version__}"
        key = f"{self.fingerprint}-{hashlib.sha256(versions.encode()).hexdigest()[:8]}"
        folder = _private_folder()
        content = _read(folder, key) if folder else None
        if content is not None:
            return _open(content, threads)
        content = trace(self.frames)
        session = _open(content, threads)
        _compare(session, self.frames)
        if folder:
            _write(folder, key, content)
        return session

    def _give_up(self, reason: Exception) -> None:
        self._session, self._impossible = None, True
        text = f"{type(reason).__name__}: {' '.join(str(reason).split())[:200]}"
        log.warning("ONNX Runtime cannot compute this encoder (%s); torch does, more slowly", text)


def trace(frames: nn.Module, waveforms: str = "waveforms", states: str = "frames") -> bytes:
    """Trace a module into an ONNX graph whose batch and length are free.

    `waveforms` and `states` name its input, `(batch, samples)`, and output, `(batch, frames, ...)`. By torch's older
    exporter: the one on `torch.export` needs another package and fixes what depends on the length.
    """
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, on shapes that are fixed on purpose
        torch.onnx.export(
            frames.eval(), (torch.zeros(2, SAMPLE_RATE_HZ),), content, dynamo=False, opset_version=OPSET,
            input_names=[waveforms], output_names=[states],
            dynamic_axes={waveforms: {0: "batch", 1: "samples"}, states: {0: "batch", 1: "frames"}},
        )  # fmt: skip
    return content.getvalue()


def _open(content: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    # Threads that spin take the processor from a training beside the page. Smaller blocks of work make up for it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.dynamic_block_base", "4")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _run(session: Any, waveforms: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.RunOptions()
    if waveforms.size > LONG_S * SAMPLE_RATE_HZ:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    frames: NDArray[np.float32] = session.run(None, {"waveforms": waveforms}, options)[0]
    return frames


def _compare(session: Any, frames: nn.Module) -> None:
    """Raise an AssertionError where a fresh graph differs from torch, at other lengths than the traced one."""
    generator = np.random.default_rng(40)
    for n_samples in (2_000, 24_000):
        waveforms = (0.1 * generator.standard_normal((1, n_samples))).astype(np.float32)
        with torch.inference_mode():
            expected = frames(torch.from_numpy(waveforms)).numpy()
        atol = TOLERANCE * float(np.abs(expected).max())
        computed = _run(session, waveforms)
        np.testing.assert_allclose(
            computed, expected, rtol=0, atol=atol, err_msg="the graph differs from torch"
        )


def _private_folder() -> Path | None:
    """The cache's folder of graphs, None where there is none or where other users could write into it."""
    try:
        folder = cache_folder() / "encoders"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder.stat()):
            return folder
        log.warning("%s can be written by other users: encoders are not cached there", folder)
    except (OSError, RuntimeError) as error:  # read-only, full, or no home
        log.info("encoders are not cached: %s", error)
    return None


def _is_private(status: os.stat_result) -> bool:
    """Whether only this user can have written a file or folder; Windows has no such modes."""
    others = stat.S_IWGRP | stat.S_IWOTH
    return os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & others)


def _read(folder: Path, key: str) -> bytes | None:
    """A cached graph that is whole and ours; one that is not is deleted."""
    for path in folder.glob(f"{key}-*.onnx"):
        try:
            with path.open("rb") as file:
                private, content = _is_private(os.fstat(file.fileno())), file.read()
            if private and hashlib.sha256(content).hexdigest() == path.stem.split("-")[-1]:
                return content
            log.warning("the cached encoder %s is damaged or not ours: it is traced again", path)
            path.unlink()
        except OSError as error:
            log.warning("the cached encoder %s cannot be used: %s", path, error)
    return None


def _write(folder: Path, key: str, content: bytes) -> None:
    """Cache a graph in place of those that other versions made of the same encoder."""
    path = folder / f"{key}-{hashlib.sha256(content).hexdigest()}.onnx"
    try:
        for older in folder.glob(f"{key.split('-')[0]}-*.onnx"):
            older.unlink(missing_ok=True)
        write_atomically(path, content)
        path.chmod(0o600)
    except OSError as error:
        log.warning("the encoder cannot be cached: %s", error)
