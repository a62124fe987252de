"""The whole road from a waveform to probabilities as one ONNX file, for machines without torch.

In: a `Predictor`. Out: a file with the input `waveform (samples,)`, float32 at 16 kHz, and the output
`probabilities (labels,)`, for any length from 0.1 s. Normalisation, encoder, classifier, temperature and the average
over pieces are in the graph; labels, threshold, fingerprint and scores in its metadata.
`ser.inference.onnx_engine` runs it.
"""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

from ser.encoders.encoder import Encoder
from ser.encoders.graph import OPSET, trace
from ser.files import SHIPPED, write_atomically
from ser.inference.onnx_engine import DESCRIPTION_KEY, ONNX_FORMAT, VOICE_NAMES
from ser.inference.onnx_graph import (
    FRAMES,
    HEAD,
    NORMALISED,
    PROBABILITIES,
    WAVEFORM,
    classifier_nodes,
    normalising_nodes,
)
from ser.inference.torch_engine import Predictor

ENCODED = "encoded"  # `(1, frames, ...)`, before the batch is taken away
SHIPPED_LICENCE = "research and demonstration, non-commercial; terms: checkpoints/README.md of persian-ser"
UNKNOWN_LICENCE = "not stated; that of the encoder and of the corpora that the classifier was trained on"


def export_onnx(
    predictor: Predictor, path: str | Path, licence: str | None = None, int8: bool = False
) -> Path:
    """Write a predictor as one ONNX file, whole or not at all.

    Args:
        predictor: the model.
        path: the file, by custom `.onnx`.
        licence: a note for whoever gets the file.
        int8: quantise the encoder's matrix products (their weights to 8 bits, their inputs as they come).
    """
    path = Path(path)
    model = _whole_graph(predictor)
    if int8:
        model = _quantised(model)
    model.metadata_props.clear()
    helper.set_model_props(model, {DESCRIPTION_KEY: json.dumps(_description(predictor, licence, int8))})
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, model.SerializeToString())
    return path


def _description(predictor: Predictor, licence: str | None, int8: bool) -> dict[str, Any]:
    checkpoint, encoder = predictor.checkpoint, predictor.encoder
    assert isinstance(encoder, Encoder)
    shipped = checkpoint.encoder.source == SHIPPED
    described = asdict(checkpoint)
    described["encoder"] |= {
        "normalise": encoder.normalise, "overlap": encoder.overlap, "speech_only": encoder.speech_only
    }  # fmt: skip
    return {
        "format": ONNX_FORMAT,
        "licence": licence or (SHIPPED_LICENCE if shipped else UNKNOWN_LICENCE),
        "precision": "int8" if int8 else "float32",
        "parameters": sum(parameter.numel() for parameter in predictor.classifier.parameters()),
        **described,
    }


def _whole_graph(predictor: Predictor) -> onnx.ModelProto:
    encoder, checkpoint = predictor.encoder, predictor.checkpoint
    assert isinstance(encoder, Encoder)
    model = onnx.load_from_string(trace(encoder.frames, NORMALISED, ENCODED))
    unbatched = helper.make_node("Squeeze", [ENCODED, "axis_0"], [FRAMES])
    axis = helper.make_tensor("axis_0", onnx.TensorProto.INT64, [1], [0])
    frame_shape = (*([encoder.n_stacked] if encoder.n_stacked else []), encoder.dim)
    before = normalising_nodes(encoder.normalise)
    after = classifier_nodes(
        predictor.classifier, checkpoint.max_frames, checkpoint.calibration.temperature, frame_shape
    )
    graph = helper.make_graph(
        [*before.nodes, *model.graph.node, unbatched, *after.nodes],
        "persian-ser",
        [helper.make_tensor_value_info(WAVEFORM, onnx.TensorProto.FLOAT, ["samples"])],
        [helper.make_tensor_value_info(PROBABILITIES, onnx.TensorProto.FLOAT, [len(checkpoint.labels)])],
        [*before.initializers, *model.graph.initializer, axis, *after.initializers, *_voices(predictor)],
    )
    whole = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="persian-ser"
    )
    whole.ir_version = model.ir_version
    return whole


def _voices(predictor: Predictor) -> list[onnx.TensorProto]:
    """What a voice is moved by: beside the graph, which does without."""
    if predictor.training is None:
        return []
    kept = (predictor.training.mean, predictor.training.deviation, predictor.training.from_neutral)
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
