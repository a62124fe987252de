"""A torch module of frames, traced into an ONNX graph.

In: `LayerFrames` of an encoder. Out: the graph as bytes, whole or with its weights left in the encoder's own file.
Called by: `ser.encoders.encoder`, and `ser.inference.export` for the whole road from a waveform to probabilities.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ser.audio.load import SAMPLE_RATE_HZ
from ser.encoders.graph import FRAMES, OPSET, WAVEFORMS, GraphDescription, Session, metadata

TOLERANCE = 1e-3  # between a fresh graph and torch, of the largest value
LEAST_SHARED = 256  # numbers of a tensor that is worth leaving in the encoder's file


def trace(frames: nn.Module) -> onnx.ModelProto:
    """Trace a module into a graph from `WAVEFORMS` to `FRAMES` whose batch and length are free.

    By torch's older exporter: the one on `torch.export` needs another package and fixes what depends on the length.
    """
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, on shapes that are fixed on purpose
        torch.onnx.export(
            frames.eval(), (torch.zeros(2, SAMPLE_RATE_HZ),), content, dynamo=False, opset_version=OPSET,
            input_names=[WAVEFORMS], output_names=[FRAMES],
            dynamic_axes={WAVEFORMS: {0: "batch", 1: "samples"}, FRAMES: {0: "batch", 1: "frames"}},
        )  # fmt: skip
    return onnx.load_from_string(content.getvalue())


def traced(frames: nn.Module, description: GraphDescription) -> tuple[bytes, Session]:
    """The graph of an encoder, whole, and its session, which was compared with torch.

    Raises:
        AssertionError: it differs at other lengths than the traced one.
    """
    model = trace(frames)
    helper.set_model_props(model, metadata(description))
    content = model.SerializeToString()
    session = Session(content)
    compare(session, frames)
    return content, session


def without_weights(graph: bytes, weights: Path) -> bytes:
    """A graph whose large tensors stay in a safetensors file, which has to lie beside it.

    Tensors of the file may be of half precision, and transposed: what brings them back is in the graph, and computed
    once, when it is opened.
    """
    model = onnx.load_from_string(graph)
    stored = _stored(weights)
    added, kept = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        found = stored.get(_identity(values)) if values.size >= LEAST_SHARED else None
        if found is None:
            kept.append(tensor)
            continue
        outside, is_transposed = found
        if outside.name not in {one.name for one in kept}:
            kept.append(outside)
        steps: list[tuple[str, dict[str, Any]]] = [("Cast", {"to": TensorProto.FLOAT})]
        steps += [("Transpose", {})] if is_transposed else []
        name = outside.name
        for number, (operator, attributes) in enumerate(steps):
            name, before = f"{tensor.name}/{number}", name
            added.append(helper.make_node(operator, [before], [name], **attributes))
        shape = numpy_helper.from_array(np.array(values.shape), f"{tensor.name}/shape")
        kept.append(shape)
        added.append(helper.make_node("Reshape", [name, shape.name], [tensor.name]))
    nodes = [*added, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def compare(session: Session, frames: nn.Module) -> None:
    """Raise an AssertionError where a graph differs from torch, at other lengths than the traced one."""
    generator = np.random.default_rng(40)
    for n_samples in (2_000, 24_000):
        waveforms = (0.1 * generator.standard_normal((1, n_samples))).astype(np.float32)
        with torch.inference_mode():
            expected = frames(torch.from_numpy(waveforms)).numpy()
        atol = TOLERANCE * float(np.abs(expected).max())
        message = "the graph differs from torch"
        np.testing.assert_allclose(session(waveforms), expected, rtol=0, atol=atol, err_msg=message)


def _stored(weights: Path) -> dict[str, tuple[TensorProto, bool]]:
    """Tensors of a safetensors file as ONNX's external data, by the identity of their values and transposed values."""
    content = weights.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    kinds = {"F16": (np.float16, TensorProto.FLOAT16), "F32": (np.float32, TensorProto.FLOAT)}
    found: dict[str, tuple[TensorProto, bool]] = {}
    for name, about in json.loads(content[8:start]).items():
        if about.get("dtype") not in kinds:
            continue
        kind, onnx_kind = kinds[about["dtype"]]
        first, last = (start + offset for offset in about["data_offsets"])
        values = np.frombuffer(content[first:last], kind).reshape(about["shape"]).astype(np.float32)
        tensor = TensorProto(name=f"weights/{name}", data_type=onnx_kind, dims=about["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", first), ("length", last - first)):
            tensor.external_data.add(key=key, value=str(value))
        if values.ndim == 2:
            found.setdefault(_identity(values.T), (tensor, True))
        found[_identity(values)] = tensor, False
    return found


def _identity(values: NDArray[np.float32]) -> str:
    """Type, values, and shape but for dimensions of 1."""
    content = np.ascontiguousarray(values)
    return f"{values.dtype} {np.squeeze(values).shape} {hashlib.sha256(content.tobytes()).hexdigest()}"
