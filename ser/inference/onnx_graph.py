"""A classifier as nodes of an ONNX graph, written by hand: the GRU operator of ONNX is the GRU of `ser.classifier.gru`.

In: the frames of a recording by name, and a classifier or an ensemble. Out: nodes and initializers that end in
`probabilities`. Frames are cut into consecutive pieces in the graph, as `ser.inference.recogniser` cuts them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from ser.classifier.bigru import BiGRUClassifier
from ser.classifier.ensemble import Ensemble
from ser.classifier.gru import BiGRULayer
from ser.encoders.chunking import VARIANCE_FLOOR

HEAD = "classifier"  # what the names of its nodes begin with
# The borders at which `ser.inference.onnx_engine` takes the graph apart.
WAVEFORM, NORMALISED, FRAMES = "waveform", "normalised", "frames"
BATCH, LENGTHS, ROWS, PROBABILITIES = "batch", "lengths", "rows", "probabilities"
MIN_VARIANCE = 1e-6  # of attentive pooling, as in `ser.classifier.bigru`
NEVER = -1e30  # attention of a step that is not there


class Nodes:
    """Nodes and initializers as they are added, each with a name of its own."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def add(
        self,
        operator: str,
        *inputs: str | NDArray[Any] | np.generic,
        out: str = "",
        n_outputs: int = 1,
        **attributes: Any,
    ) -> str:
        """One node; arrays among its inputs become initializers. Returns the name of its last output."""
        name = f"{self.prefix}/{operator}_{len(self.nodes)}"
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        outputs = [""] * (n_outputs - 1) + [out or f"{name}:0"]
        self.nodes.append(helper.make_node(operator, names, outputs, name=name, **attributes))
        return outputs[-1]

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        name = f"{self.prefix}/constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def normalising_nodes(normalise: bool) -> Nodes:
    """`waveform (samples,)` to `normalised (1, samples)`, as `ser.encoders.chunking.normalised` does it."""
    graph = Nodes("normalise")
    samples = WAVEFORM
    if normalise:
        centred = graph.add("Sub", samples, graph.add("ReduceMean", samples, axes=[0]))
        variance = graph.add("ReduceMean", graph.add("Mul", centred, centred), axes=[0])
        scale = graph.add("Sqrt", graph.add("Add", variance, np.float32(VARIANCE_FLOOR)))
        samples = graph.add("Div", centred, scale)
    graph.add("Unsqueeze", samples, _ints(0), out=NORMALISED)
    return graph


def classifier_nodes(
    model: nn.Module, max_frames: int, temperature: float, frame_shape: tuple[int, ...]
) -> Nodes:
    """`frames (frames, *frame_shape)` to `probabilities (labels,)`.

    On the way: `batch (steps, pieces, *frame_shape)` and `lengths (pieces,)`, and `rows (pieces, labels)`.
    """
    graph = Nodes(HEAD)
    n_averaged = getattr(model, "members", [model])[0].settings.averaged_frames
    _cut(graph, _averages(graph, n_averaged, frame_shape), max_frames, frame_shape)
    if isinstance(model, Ensemble):
        logits = _ensemble(graph, model)
    else:
        assert isinstance(model, BiGRUClassifier)
        logits = _logits(graph, model)
    graph.add("Softmax", graph.add("Div", logits, np.float32(temperature)), axis=-1, out=ROWS)
    weights = graph.add("Cast", LENGTHS, to=TensorProto.FLOAT)
    share = graph.add("Div", weights, graph.add("ReduceSum", weights, _ints(0), keepdims=1))
    graph.add("MatMul", share, ROWS, out=PROBABILITIES)
    return graph


def _averages(graph: Nodes, n: int, frame_shape: tuple[int, ...]) -> str:
    """Averages of `n` neighbouring frames, the last of what is left, as `ser.features.reduce.averaged`."""
    if n == 1:
        return FRAMES
    total = graph.add("Shape", FRAMES, start=0, end=1)
    groups = graph.add("Div", graph.add("Add", total, _ints(n - 1)), _ints(n))
    padded = _padded(graph, FRAMES, graph.add("Mul", groups, _ints(n)), total, len(frame_shape))
    grouped = graph.add("Reshape", padded, _ints(-1, n, *frame_shape))
    numbers = graph.add("Range", np.int64(0), graph.add("Squeeze", groups, _ints(0)), np.int64(1))
    counts = graph.add("Min", graph.add("Sub", total, graph.add("Mul", numbers, _ints(n))), _ints(n))
    divisors = graph.add(
        "Reshape", graph.add("Cast", counts, to=TensorProto.FLOAT), _ints(-1, *[1] * len(frame_shape))
    )
    return graph.add("Div", graph.add("ReduceSum", grouped, _ints(1), keepdims=0), divisors)


def _padded(graph: Nodes, frames: str, wanted: str, total: str, frame_rank: int) -> str:
    """Frames with zeros behind them, from `total` to as many as are wanted."""
    none, missing = _ints(*[0] * frame_rank), graph.add("Sub", wanted, total)
    pads = graph.add("Concat", _ints(0), none, missing, none, axis=0)
    return graph.add("Pad", frames, pads)


def _cut(graph: Nodes, frames: str, max_frames: int, frame_shape: tuple[int, ...]) -> None:
    """Consecutive pieces of at most `max_frames`, side by side in a padded batch, and their lengths."""
    total = graph.add("Shape", frames, start=0, end=1)
    step = graph.add("Min", total, _ints(max_frames))
    n_pieces = graph.add("Div", graph.add("Sub", graph.add("Add", total, step), _ints(1)), step)
    padded = _padded(graph, frames, graph.add("Mul", n_pieces, step), total, len(frame_shape))
    shape = graph.add("Concat", n_pieces, step, _ints(*frame_shape), axis=0)
    pieces = graph.add("Reshape", padded, shape)
    graph.add("Transpose", pieces, perm=[1, 0, *range(2, len(frame_shape) + 2)], out=BATCH)
    scalar = graph.add("Squeeze", n_pieces, _ints(0))
    starts = graph.add("Mul", graph.add("Range", np.int64(0), scalar, np.int64(1)), step)
    lengths = graph.add("Min", graph.add("Sub", total, starts), step)
    graph.add("Cast", lengths, to=TensorProto.INT32, out=LENGTHS)


def _ensemble(graph: Nodes, model: Ensemble) -> str:
    """`(pieces, labels)`: logarithms of the averaged probabilities, but for a constant."""
    each = []
    for member, temperature in zip(model.members, model.temperatures.tolist(), strict=True):
        assert isinstance(member, BiGRUClassifier)
        logits = graph.add("Div", _logits(graph, member), np.float32(temperature))
        each.append(graph.add("Unsqueeze", graph.add("LogSoftmax", logits, axis=-1), _ints(0)))
    return graph.add("ReduceLogSumExp", graph.add("Concat", *each, axis=0), axes=[0], keepdims=0)


def _logits(graph: Nodes, model: BiGRUClassifier) -> str:
    """`batch` and `lengths` to logits `(pieces, labels)`."""
    x = BATCH
    if model.settings.weighted_layers:
        weights = _array(model.layer_weights.softmax(dim=0))[None]  # (1, layers) by (layers, dim)
        x = graph.add("Squeeze", graph.add("MatMul", weights, x), _ints(2))
    elif model.settings.concatenated_layers:
        x = graph.add("Reshape", x, _ints(0, 0, len(model.norm.weight)))
    x = graph.add(
        "LayerNormalization",
        x,
        _array(model.norm.weight),
        _array(model.norm.bias),
        axis=-1,
        epsilon=model.norm.eps,
    )
    *before, last = model.gru
    for layer in before:
        x = _states(graph, layer, x)
    if model.settings.pooling == "last":
        ends = _gru(graph, last, x, n_outputs=2)  # (2, pieces, units)
        ends = graph.add("Transpose", ends, perm=[1, 0, 2])
        pooled = graph.add("Reshape", ends, _ints(0, 2 * last.units))
    else:
        pooled = _attentive(graph, _states(graph, last, x), model.attention)
    return graph.add("Gemm", pooled, _array(model.dense.weight), _array(model.dense.bias), transB=1)


def _states(graph: Nodes, layer: BiGRULayer, x: str) -> str:
    """All states as frames of the next layer, `(steps, pieces, 2 * units)`."""
    states = graph.add("Transpose", _gru(graph, layer, x, n_outputs=1), perm=[0, 2, 1, 3])
    return graph.add("Reshape", states, _ints(0, 0, 2 * layer.units))


def _gru(graph: Nodes, layer: BiGRULayer, x: str, n_outputs: int) -> str:
    """All states `(steps, 2, pieces, units)`, or with two outputs the last ones of each direction."""

    def gates(values: torch.Tensor) -> NDArray[Any]:
        """ONNX wants update, reset, new; ours are reset, update, new."""
        reset, update, new = _array(values).reshape(2, 3, layer.units, -1).transpose(1, 0, 2, 3)
        return np.concatenate([update, reset, new], axis=1)

    biases = np.concatenate([gates(layer.bias_ih), gates(layer.bias_hh)], axis=1)[..., 0]
    return graph.add(
        "GRU", x, gates(layer.weight_ih), gates(layer.weight_hh), biases, LENGTHS, n_outputs=n_outputs,
        hidden_size=layer.units, direction="bidirectional", linear_before_reset=1,
    )  # fmt: skip


def _attentive(graph: Nodes, states: str, attention: nn.Linear) -> str:
    """Mean and standard deviation over the steps that are there, `(pieces, 4 * units)`."""
    scores = graph.add("Add", graph.add("MatMul", states, _array(attention.weight.T)), _array(attention.bias))
    n_steps = graph.add("Squeeze", graph.add("Shape", states, start=0, end=1), _ints(0))
    steps = graph.add("Unsqueeze", graph.add("Range", np.int64(0), n_steps, np.int64(1)), _ints(1))
    there = graph.add("Less", steps, graph.add("Cast", LENGTHS, to=TensorProto.INT64))
    masked = graph.add("Where", graph.add("Unsqueeze", there, _ints(2)), scores, np.float32(NEVER))
    weight = graph.add("Softmax", masked, axis=0)
    weighted = graph.add("Mul", weight, states)
    mean = graph.add("ReduceSum", weighted, _ints(0), keepdims=0)
    square = graph.add("ReduceSum", graph.add("Mul", weighted, states), _ints(0), keepdims=0)
    variance = graph.add("Sub", square, graph.add("Mul", mean, mean))
    spread = graph.add("Sqrt", graph.add("Max", variance, np.float32(MIN_VARIANCE)))
    return graph.add("Concat", mean, spread, axis=-1)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().float().numpy()


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
