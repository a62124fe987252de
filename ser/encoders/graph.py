"""A frozen encoder as an ONNX graph: frames by ONNX Runtime, without torch and faster than it on a processor.

In: the fingerprint of an encoder and layers. Out: a `GraphEncoder`, where its graph is at hand: in the encoder's own
folder as `frames-FINGERPRINT.onnx`, with its weights left in the file beside it, or whole in the cache, as
`SER_CACHE/encoders/FINGERPRINT-VERSIONS-SHA256.onnx`. `ser.encoders.trace` makes both. Of the cache only a file that
has that SHA-256, and that no other user of the machine can have written, reaches ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.audio.load import SAMPLE_RATE_HZ, Samples
from ser.encoders.chunking import Frames, chunks, normalised
from ser.errors import EncoderError
from ser.files import SHIPPED, SHIPPED_ENCODER, cache_folder, write_atomically
from ser.runtime import give_back_memory, n_threads, version_of

FORMAT = 2  # part of every name in the cache: raise it when what is traced changes
DESCRIPTION_KEY = "persian-ser encoder"  # in the file's metadata: a `GraphDescription` as JSON
WAVEFORMS, FRAMES = "waveforms", "frames"  # input `(batch, samples)` and output `(batch, frames, ...)`
OPSET = 17  # of every graph here: those of encoder and classifier are joined into one
LONG_S = 20  # after a waveform longer than that, memory goes back to the system

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GraphDescription:
    """What a graph computes.

    Attributes:
        fingerprint: of encoder, layers and preparation, as `Encoder.fingerprint` gives it.
        normalise: utterances are brought to zero mean and unit variance first.
        speech_only: it is to be given speech alone, at one level.
        overlap: samples by which the last frame of a piece hears beyond it.
        weights, weights_sha256: the file beside the graph that holds its weights; empty where they are within.
    """

    fingerprint: str
    normalise: bool
    speech_only: bool
    overlap: int
    weights: str = ""
    weights_sha256: str = ""


class Session:
    """Runs a graph with as many threads as the calling thread is to use; safe to call from several threads."""

    def __init__(self, graph: bytes | Path) -> None:
        self._graph = graph
        self._lock = threading.Lock()
        self._n_threads = 0
        self.within_threads()

    def within_threads(self) -> Any:
        """The session of ONNX Runtime; an exception of its own where the graph is damaged."""
        with self._lock:
            wanted = n_threads()
            if self._n_threads != wanted:
                self._session, self._n_threads = open_graph(self._graph, wanted), wanted
            return self._session

    @property
    def description(self) -> GraphDescription:
        """What the graph says of itself; a ValueError or TypeError where it does not."""
        about = self.within_threads().get_modelmeta().custom_metadata_map
        return GraphDescription(**json.loads(about.get(DESCRIPTION_KEY, "null")))

    def __call__(self, waveforms: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(batch, samples)` to `(batch, frames, ...)`."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        if waveforms.size > LONG_S * SAMPLE_RATE_HZ:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        frames: NDArray[np.float32] = self.within_threads().run(None, {WAVEFORMS: waveforms}, options)[0]
        return frames


class GraphEncoder:
    """A frozen encoder whose graph is at hand; the same as `Encoder` for who only wants frames."""

    parallel = True

    def __init__(self, session: Session, about: GraphDescription) -> None:
        self.session = session
        self.fingerprint, self.normalise = about.fingerprint, about.normalise
        self.speech_only, self.overlap = about.speech_only, about.overlap

    @classmethod
    def find(cls, fingerprint: str, source: str) -> GraphEncoder | None:
        """The encoder of a fingerprint, from its folder or from the cache; None where it has to be traced.

        Args:
            fingerprint: of encoder and layers.
            source: a folder, "shipped", or a hub id, which has no graph of its own.
        """
        session = find_session(fingerprint, SHIPPED_ENCODER if source == SHIPPED else Path(source))
        return None if session is None else cls(session, session.description)

    @property
    def engine(self) -> str:
        return engine_name()

    def __call__(self, utterances: Sequence[Samples]) -> list[Frames]:
        """Encode utterances, each `(samples,)`, to `(frames, dim)` or `(frames, layers, dim)`."""
        return [encoded(one, self.normalise, self.overlap, self.session) for one in utterances]


def engine_name() -> str:
    """What computes the frames of a graph: rounding differs from engine to engine."""
    return f"onnxruntime {version_of('onnxruntime')}"


def encoded(
    samples: Samples, normalise: bool, overlap: int, run: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> Frames:
    """Frames of one utterance, a long one piece by piece; `run` takes `(1, samples)` to `(1, frames, ...)`."""
    ready = normalised(samples) if normalise else samples
    parts = [run(piece[None])[0] for piece in chunks(ready, overlap)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def find_session(fingerprint: str, folder: Path) -> Session | None:
    """A graph that is at hand, opened: of an encoder's folder, else of the cache; None where there is none."""
    path = folder / graph_name(fingerprint)
    if path.is_file():
        try:
            return _checked(Session(path), fingerprint, folder)
        except Exception as error:  # onnxruntime's classes have no common base
            log.warning("%s cannot be used: %s", path, " ".join(str(error).split())[:200])
    content = _cached(fingerprint)
    try:
        return None if content is None else _checked(Session(content), fingerprint, folder)
    except Exception as error:
        log.warning("the cached encoder %s cannot be used: %s", fingerprint, " ".join(str(error).split())[:200])
        return None


def graph_name(fingerprint: str) -> str:
    """What the graph of an encoder is called in the encoder's folder."""
    return f"frames-{fingerprint}.onnx"


def keep(fingerprint: str, graph: bytes) -> None:
    """Cache a graph in place of those that other versions made of the same encoder."""
    folder = _private_folder()
    if folder is None:
        return
    path = folder / f"{_key(fingerprint)}-{hashlib.sha256(graph).hexdigest()}.onnx"
    try:
        for older in folder.glob(f"{fingerprint}-*.onnx"):
            older.unlink(missing_ok=True)
        write_atomically(path, graph)
        path.chmod(0o600)
    except OSError as error:
        log.warning("the encoder cannot be cached: %s", error)


def metadata(description: GraphDescription) -> dict[str, str]:
    """A description as what an ONNX file carries."""
    return {DESCRIPTION_KEY: json.dumps(asdict(description))}


def _checked(session: Session, fingerprint: str, folder: Path) -> Session:
    """The session, if its graph is the wanted encoder's; an EncoderError where it or its weights are another's."""
    about = session.description
    if about.fingerprint != fingerprint:
        raise EncoderError(f"it is the graph of {about.fingerprint}")
    if about.weights:
        with (folder / about.weights).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about.weights_sha256:
                raise EncoderError(f"{about.weights} beside it is not the file that it was made of")
    return session


def open_graph(graph: bytes | Path, threads: int) -> Any:
    """ONNX Runtime's session of a graph on the processor; an exception of its own where the graph is damaged."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    # Threads that spin take the processor from a training beside the page. Smaller blocks of work make up for it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.dynamic_block_base", "4")
    if isinstance(graph, Path):  # opened for an answer: the further levels take 90 ms and give Whisper's layers nothing
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    content = str(graph) if isinstance(graph, Path) else graph
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    give_back_memory()
    return session


def _key(fingerprint: str) -> str:
    made_by = [FORMAT, *map(version_of, ("torch", "transformers", "onnxruntime"))]
    return f"{fingerprint}-{hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:8]}"


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


def _cached(fingerprint: str) -> bytes | None:
    """A cached graph that is whole and ours; one that is not is deleted."""
    folder = _private_folder()
    for path in folder.glob(f"{_key(fingerprint)}-*.onnx") if folder else ():
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
