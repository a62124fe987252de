"""A classifier as nodes of an ONNX graph, written by hand: the GRU operator of ONNX is the GRU of `ser.classifier.gru`.

In: a checkpoint and its weights by name, of one classifier or of an ensemble. Out: a session for pieces of recordings,
by which this project answers; or, for an exported file, nodes that cut the frames of a whole recording into the same
pieces and end in its `probabilities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ser.classifier.checkpoint import Checkpoint, State
from ser.classifier.settings import AXES_BUFFERS, FUNCTIONALS_BUFFERS, NORM_EPSILON, ClassifierSettings
from ser.encoders.chunking import VARIANCE_FLOOR
from ser.encoders.graph import OPSET, WAVEFORMS, open_graph

HEAD = "classifier"  # what the names of its nodes begin with
# The borders at which `ser.inference.model_file` takes an exported graph apart, beside those of an encoder's.
WAVEFORM, RECORDING = "waveform", "recording"
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
    """`waveform (samples,)` to `waveforms (1, samples)`, as `ser.encoders.chunking.normalised` does it."""
    graph = Nodes("normalise")
    samples = WAVEFORM
    if normalise:
        centred = graph.add("Sub", samples, graph.add("ReduceMean", samples, axes=[0]))
        variance = graph.add("ReduceMean", graph.add("Mul", centred, centred), axes=[0])
        scale = graph.add("Sqrt", graph.add("Add", variance, np.float32(VARIANCE_FLOOR)))
        samples = graph.add("Div", centred, scale)
    graph.add("Unsqueeze", samples, _ints(0), out=WAVEFORMS)
    return graph


def classifier_session(checkpoint: Checkpoint, state: State) -> Any:
    """ONNX Runtime's session from `batch (steps, pieces, *frame_shape)` and `lengths (pieces,)` to `rows`."""
    graph = Nodes(HEAD)
    _rows(graph, checkpoint, state)
    model = model_of(graph.nodes, graph.initializers, (BATCH, LENGTHS), ROWS)
    return session_of(model)


def model_of(
    nodes: Sequence[NodeProto], initializers: Sequence[TensorProto], inputs: Sequence[str], output: str
) -> ModelProto:
    """A model of nodes in order; `lengths` is int32, all else float32."""
    kinds = {LENGTHS: TensorProto.INT32}
    graph = helper.make_graph(
        nodes,
        "persian-ser",
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="persian-ser"
    )


def session_of(model: ModelProto) -> Any:
    """A session of a classifier's graph, on one thread: it is a hundredth of the encoder's work."""
    return open_graph(model.SerializeToString(), threads=1)


def recording_nodes(checkpoint: Checkpoint, state: State) -> Nodes:
    """`recording (frames, *frame_shape)` to `probabilities (labels,)`, by `batch`, `lengths` and `rows`."""
    graph = Nodes(HEAD)
    settings, dim = checkpoint.classifier, checkpoint.encoder.dim
    frame_shape = (settings.stacked_layers, dim) if settings.stacked_layers else (dim,)
    _cut(graph, _averages(graph, settings.averaged_frames, frame_shape), checkpoint.max_frames, frame_shape)
    _rows(graph, checkpoint, state)
    weights = graph.add("Cast", LENGTHS, to=TensorProto.FLOAT)
    share = graph.add("Div", weights, graph.add("ReduceSum", weights, _ints(0), keepdims=1))
    graph.add("MatMul", share, ROWS, out=PROBABILITIES)
    return graph


def _rows(graph: Nodes, checkpoint: Checkpoint, state: State) -> None:
    """`batch` and `lengths` to `rows (pieces, labels)`, the calibrated probabilities of each piece."""
    each = [_logits(graph, checkpoint.classifier, _below(state, prefix)) for prefix in checkpoint.prefixes]
    if len(each) > 1:
        each = [graph.add("Div", one, value) for one, value in zip(each, state["temperatures"], strict=True)]
    temperature = np.float32(checkpoint.calibration.temperature)
    graph.add("Softmax", graph.add("Div", _averaged(graph, each), temperature), axis=-1, out=ROWS)


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}


def _averages(graph: Nodes, n: int, frame_shape: tuple[int, ...]) -> str:
    """Averages of `n` neighbouring frames, the last of what is left, as `ser.features.reduce.averaged`."""
    if n == 1:
        return RECORDING
    total = graph.add("Shape", RECORDING, start=0, end=1)
    groups = graph.add("Div", graph.add("Add", total, _ints(n - 1)), _ints(n))
    padded = _padded(graph, RECORDING, graph.add("Mul", groups, _ints(n)), total, len(frame_shape))
    grouped = graph.add("Reshape", padded, _ints(-1, n, *frame_shape))
    numbers = graph.add("Range", np.int64(0), graph.add("Squeeze", groups, _ints(0)), np.int64(1))
    counts = graph.add("Min", graph.add("Sub", total, graph.add("Mul", numbers, _ints(n))), _ints(n))
    divisors = graph.add("Reshape", graph.add("Cast", counts, to=TensorProto.FLOAT), _ints(-1, *[1] * len(frame_shape)))
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


def _averaged(graph: Nodes, logits: Sequence[str]) -> str:
    """`(pieces, labels)`: as `ser.classifier.bigru.averaged`, but for a constant."""
    if len(logits) == 1:
        return logits[0]
    each = [graph.add("Unsqueeze", graph.add("LogSoftmax", one, axis=-1), _ints(0)) for one in logits]
    return graph.add("ReduceLogSumExp", graph.add("Concat", *each, axis=0), axes=[0], keepdims=0)


def _logits(graph: Nodes, settings: ClassifierSettings, state: State) -> str:
    """`batch` and `lengths` to logits `(pieces, labels)`, as `BiGRUClassifier.forward` computes them."""
    x = BATCH
    if settings.weighted_layers:
        exponents = np.exp(state["layer_weights"] - state["layer_weights"].max())
        weights = (exponents / exponents.sum())[None]  # (1, layers) by (layers, dim)
        x = graph.add("Squeeze", graph.add("MatMul", weights, x), _ints(2))
    elif settings.concatenated_layers:
        x = graph.add("Reshape", x, _ints(0, 0, -1))
    if settings.components:
        mean, axes = (state[name] for name in AXES_BUFFERS)
        x = graph.add("MatMul", graph.add("Sub", x, mean), axes)
    frames = x
    x = graph.add("LayerNormalization", x, state["norm.weight"], state["norm.bias"], axis=-1, epsilon=NORM_EPSILON)
    *before, last = (_below(state, f"gru.{number}.") for number in range(settings.gru_layers))
    for layer in before:
        x = _states(graph, layer, x)
    if settings.pooling == "last":
        ends = _gru(graph, last, x, n_outputs=2)  # (2, pieces, units)
        ends = graph.add("Transpose", ends, perm=[1, 0, 2])
        pooled = graph.add("Reshape", ends, _ints(0, 2 * _units(last)))
    else:
        pooled = _attentive(graph, _states(graph, last, x), state)
    heads = {"dense": pooled}
    if settings.functionals:
        heads["linear"] = _functionals(graph, frames, state)
    each = [
        graph.add("Gemm", values, state[f"{name}.weight"], state[f"{name}.bias"], transB=1)
        for name, values in heads.items()
    ]
    return _averaged(graph, each)


def _functionals(graph: Nodes, frames: str, state: State) -> str:
    """Standardised mean and standard deviation of the frames that are there, `(pieces, 2 * width)`."""
    mask = graph.add("Cast", _there(graph, frames), to=TensorProto.FLOAT)
    lengths = graph.add("Unsqueeze", graph.add("Cast", LENGTHS, to=TensorProto.FLOAT), _ints(1))

    def mean_of(values: str) -> str:
        return graph.add("Div", graph.add("ReduceSum", graph.add("Mul", mask, values), _ints(0), keepdims=0), lengths)

    mean = mean_of(frames)
    centred = graph.add("Sub", frames, mean)
    deviation = graph.add("Sqrt", mean_of(graph.add("Mul", centred, centred)))
    usual, scale = (state[name] for name in FUNCTIONALS_BUFFERS)
    return graph.add("Div", graph.add("Sub", graph.add("Concat", mean, deviation, axis=-1), usual), scale)


def _there(graph: Nodes, values: str) -> str:
    """Which of the steps of `values` are there and no padding, `(steps, pieces, 1)`."""
    n_steps = graph.add("Squeeze", graph.add("Shape", values, start=0, end=1), _ints(0))
    steps = graph.add("Unsqueeze", graph.add("Range", np.int64(0), n_steps, np.int64(1)), _ints(1))
    there = graph.add("Less", steps, graph.add("Cast", LENGTHS, to=TensorProto.INT64))
    return graph.add("Unsqueeze", there, _ints(2))


def _states(graph: Nodes, layer: State, x: str) -> str:
    """All states as frames of the next layer, `(steps, pieces, 2 * units)`."""
    states = graph.add("Transpose", _gru(graph, layer, x, n_outputs=1), perm=[0, 2, 1, 3])
    return graph.add("Reshape", states, _ints(0, 0, 2 * _units(layer)))


def _gru(graph: Nodes, layer: State, x: str, n_outputs: int) -> str:
    """All states `(steps, 2, pieces, units)`, or with two outputs the last ones of each direction."""

    def gates(name: str) -> NDArray[Any]:
        """ONNX wants update, reset, new; ours are reset, update, new."""
        reset, update, new = layer[name].reshape(2, 3, _units(layer), -1).transpose(1, 0, 2, 3)
        return np.concatenate([update, reset, new], axis=1)

    biases = np.concatenate([gates("bias_ih"), gates("bias_hh")], axis=1)[..., 0]
    return graph.add(
        "GRU", x, gates("weight_ih"), gates("weight_hh"), biases, LENGTHS, n_outputs=n_outputs,
        hidden_size=_units(layer), direction="bidirectional", linear_before_reset=1,
    )  # fmt: skip


def _units(layer: State) -> int:
    return layer["weight_hh"].shape[2]


def _attentive(graph: Nodes, states: str, state: State) -> str:
    """Mean and standard deviation over the steps that are there, `(pieces, 4 * units)`."""
    scores = graph.add("Add", graph.add("MatMul", states, state["attention.weight"].T), state["attention.bias"])
    masked = graph.add("Where", _there(graph, states), scores, np.float32(NEVER))
    weight = graph.add("Softmax", masked, axis=0)
    weighted = graph.add("Mul", weight, states)
    mean = graph.add("ReduceSum", weighted, _ints(0), keepdims=0)
    square = graph.add("ReduceSum", graph.add("Mul", weighted, states), _ints(0), keepdims=0)
    variance = graph.add("Sub", square, graph.add("Mul", mean, mean))
    spread = graph.add("Sqrt", graph.add("Max", variance, np.float32(MIN_VARIANCE)))
    return graph.add("Concat", mean, spread, axis=-1)


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
