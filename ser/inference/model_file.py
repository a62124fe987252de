"""An exported model: one ONNX file that this project runs as any checkpoint, and any ONNX runtime runs alone.

In: a file of `ser export`, one graph from a waveform to probabilities. Out: a `Recogniser`. The graph is taken apart at
its frames, so that long recordings, the timeline and voices go the way that they always go: encoded in pieces of about
30 s, classified in pieces and windows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser.classifier.checkpoint import checkpoint_from
from ser.encoders.graph import FRAMES, WAVEFORMS, GraphDescription, GraphEncoder, Session
from ser.errors import CheckpointError
from ser.inference.adaptation import Training
from ser.inference.graph_nodes import BATCH, LENGTHS, ROWS, model_of, session_of
from ser.inference.recogniser import Recogniser

FILE_FORMAT = "persian-ser onnx 2"
VOICE_NAMES = ("voice/mean", "voice/deviation", "voice/from_neutral")
DESCRIPTION_KEY = "persian-ser"  # in the file's metadata: all of it as one JSON
REMEDY = "Write it anew with: ser export --out FILE"


def open_model_file(path: str | Path) -> Recogniser:
    """Open a file of `ser export`.

    Raises:
        CheckpointError: the file is missing, damaged, or of another program.
    """
    model, description = _read(Path(path))
    try:
        checkpoint = checkpoint_from(description["checkpoint"])
        frames = _part(model, [WAVEFORMS], FRAMES)
        encoder = GraphEncoder(Session(frames.SerializeToString()), GraphDescription(**description["graph"]))
        classifier = session_of(_part(model, [BATCH, LENGTHS], ROWS))
        return Recogniser(checkpoint, encoder, classifier, _training(model, checkpoint.frames_fingerprint))
    except Exception as error:  # protobuf, onnx and onnxruntime raise whatever the damage leads to
        raise CheckpointError(f"{path} is damaged ({str(error).strip()[:200]}). {REMEDY}") from error


def is_model_file(model: str | Path) -> bool:
    """Whether a model is an ONNX file rather than a checkpoint's folder, by its name."""
    return Path(model).suffix.lower() == ".onnx"


def read_file_description(path: str | Path) -> dict[str, Any]:
    """What an exported file says of itself: format, precision, licence, checkpoint, encoder's graph.

    Raises:
        CheckpointError: as for `open_model_file`.
    """
    return _read(Path(path))[1]


def _training(model: Any, fingerprint: str) -> Training | None:
    """What the file keeps of the training speakers: initializers that its graph does not need."""
    from onnx import numpy_helper

    kept = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer if one.name in VOICE_NAMES}
    return Training(fingerprint, *(kept[name] for name in VOICE_NAMES)) if kept else None


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    import onnx

    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. Write one with: ser export --out {path}")
    try:
        model = onnx.load(path, load_external_data=False)
        entries = {entry.key: entry.value for entry in model.metadata_props}
        description = json.loads(entries.get(DESCRIPTION_KEY, "null"))
    except Exception as error:  # protobuf's own kinds, without a common base
        raise CheckpointError(f"{path} is no ONNX file ({str(error).strip()[:200]}). {REMEDY}") from error
    if not isinstance(description, dict) or description.get("format") != FILE_FORMAT:
        raise CheckpointError(
            f"{path} is not of the format {FILE_FORMAT!r}: another program or version wrote it. {REMEDY}"
        )
    return model, description


def _part(model: Any, inputs: Sequence[str], output: str) -> Any:
    """What lies between two borders of the graph, as a model."""
    wanted, nodes = {output}, []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(name for name in node.input if name not in inputs)
    kept = [one for one in model.graph.initializer if one.name in wanted]
    return model_of(nodes[::-1], kept, inputs, output)
