"""The whole road from a waveform to probabilities as one ONNX file, for any ONNX runtime.

In: a checkpoint's folder. Out: a file with the input `waveform (samples,)`, float32 at 16 kHz, and the output
`probabilities (labels,)`, for any length from 0.1 s. Normalisation, encoder, classifier, temperature and the average
over pieces are in the graph; labels, threshold, fingerprint and scores in its metadata.
`ser.inference.model_file` opens it.
"""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import helper, numpy_helper

from ser.classifier.checkpoint import Checkpoint, State
from ser.encoders.encoder import Encoder
from ser.encoders.graph import FRAMES
from ser.encoders.trace import trace
from ser.files import SHIPPED, write_atomically
from ser.inference.graph_nodes import (
    HEAD,
    PROBABILITIES,
    RECORDING,
    WAVEFORM,
    model_of,
    normalising_nodes,
    recording_nodes,
)
from ser.inference.load import training_of
from ser.inference.model_file import DESCRIPTION_KEY, FILE_FORMAT, VOICE_NAMES

SHIPPED_LICENCE = "research and demonstration, non-commercial; terms: checkpoints/README.md of persian-ser"
UNKNOWN_LICENCE = "not stated; that of the encoder and of the corpora that the classifier was trained on"


def export_onnx(
    checkpoint: Checkpoint,
    state: State,
    encoder: Encoder,
    path: str | Path,
    licence: str | None = None,
    int8: bool = False,
) -> Path:
    """Write a model as one ONNX file, whole or not at all.

    Args:
        checkpoint, state: from `read_state`.
        encoder: the checkpoint's, with the layers that it takes.
        path: the file, by custom `.onnx`.
        licence: a note for whoever gets the file.
        int8: quantise the encoder's matrix products (their weights to 8 bits, their inputs as they come).
    """
    path = Path(path)
    model = _whole_graph(checkpoint, state, encoder)
    if int8:
        model = _quantised(model)
    model.metadata_props.clear()
    shipped = checkpoint.encoder.source == SHIPPED
    description = {
        "format": FILE_FORMAT,
        "licence": licence or (SHIPPED_LICENCE if shipped else UNKNOWN_LICENCE),
        "precision": "int8" if int8 else "float32",
        "checkpoint": asdict(checkpoint),
        "graph": asdict(encoder.description),
    }
    helper.set_model_props(model, {DESCRIPTION_KEY: json.dumps(description)})
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, model.SerializeToString())
    return path


def _whole_graph(checkpoint: Checkpoint, state: State, encoder: Encoder) -> onnx.ModelProto:
    frames = trace(encoder.frames).graph
    before, after = normalising_nodes(encoder.normalise), recording_nodes(checkpoint, state)
    unbatched = helper.make_node("Squeeze", [FRAMES, "axis_0"], [RECORDING])
    axis = helper.make_tensor("axis_0", onnx.TensorProto.INT64, [1], [0])
    nodes = [*before.nodes, *frames.node, unbatched, *after.nodes]
    kept = [*before.initializers, *frames.initializer, axis, *after.initializers, *_voices(checkpoint, state)]
    model = model_of(nodes, kept, [WAVEFORM], PROBABILITIES)
    for border, size in ((model.graph.input[0], "samples"), (model.graph.output[0], len(checkpoint.labels))):
        shape = helper.make_tensor_value_info(border.name, onnx.TensorProto.FLOAT, [size])
        border.CopyFrom(shape)
    return model


def _voices(checkpoint: Checkpoint, state: State) -> list[onnx.TensorProto]:
    """What a voice is moved by: beside the graph, which does without."""
    training = training_of(checkpoint, state)
    if training is None:
        return []
    kept = (training.mean, training.deviation, training.from_neutral)
    return [numpy_helper.from_array(one, name) for name, one in zip(VOICE_NAMES, kept, strict=True)]


def _quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The matrix products of the encoder in 8 bits; the classifier, a hundredth of the work, stays as it is."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kept = [node.name for node in model.graph.node if node.name.startswith(HEAD)]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        logging.disable(logging.WARNING)  # advice on preprocessing, without effect on products
        try:
            quantize_dynamic(
                model, target, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
                weight_type=QuantType.QInt8, nodes_to_exclude=kept,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(target)
