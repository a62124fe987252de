"""The compiled kernels of `ser/kernels.c` and `ser/gru.c`: built with the machine's C compiler when first asked for.

In: a layer's weights; frames `(frames, width)` float32. Out: `(fewer frames, outputs)` float32. There is no need of a
compiler: `kernels()` is None without one, or on a processor without AVX2, and whoever asks goes on with torch. The
library lies beside the kept features, under a name that depends on its sources.
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ser.feature_cache import FeatureCache

ENVIRONMENT = "SER_NATIVE"  # "0": torch alone
SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernels.c", "gru.c"))
FLAGS = ("-O2", "-mavx2", "-mfma", "-fPIC")
COMPILE_TIMEOUT_S = 120
COLUMNS, BLOCK, LANES = 16, 64, 8  # as in the sources
LARGEST_WEIGHT = 16_383  # half of what fits: leaves the activations as much of the 31 bits of a sum
GRU_COLUMNS = 8 * LANES
GRU_PANEL = 3 * LANES

log = logging.getLogger(__name__)


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had; the log says why."""
    if os.environ.get(ENVIRONMENT) == "0":
        return None
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        log.info("no compiled kernels: the processor has no AVX2")
        return None
    try:
        loaded = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("no compiled kernels: %s", error)
        return None
    loaded.ser_layer.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    ]  # fmt: skip
    loaded.ser_gru.argtypes = [*[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 3, ctypes.c_void_p, ctypes.c_int]
    loaded.ser_gru_forward.argtypes = [*[ctypes.c_void_p] * 8, *[ctypes.c_int64] * 2, ctypes.c_int]
    loaded.ser_gru_back.argtypes = [*[ctypes.c_void_p] * 11, *[ctypes.c_int64] * 2, ctypes.c_int]
    for function in (loaded.ser_gru, loaded.ser_gru_forward, loaded.ser_gru_back):
        function.restype = None
    return loaded


def _built() -> Path:
    """The library's file, compiled where it is not there yet.

    OpenMP's functions are left open: they are found in the library that torch has loaded, so that both share their
    threads.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise OSError("there is no C compiler")
    told = b"".join(source.read_bytes() for source in SOURCES) + " ".join(FLAGS).encode()
    name = hashlib.sha256(told).hexdigest()[:16]
    folder = FeatureCache().folder / "kernels"
    built = folder / f"{name}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            objects = [str(Path(work) / f"{source.stem}.o") for source in SOURCES]
            made = Path(work) / "kernels.so"
            for source, compiled in zip(SOURCES, objects, strict=True):
                _run(compiler, *FLAGS, "-fopenmp", "-c", str(source), "-o", compiled)
            _run(compiler, "-shared", *objects, "-o", str(made), "-lm")
            made.replace(built)  # whole or not at all, whoever else compiles it now
    return built


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command[:1])} ended with {done.returncode}: {done.stderr.strip()[-300:]}")


class _Layer(ctypes.Structure):
    """`Layer` of kernels.c."""

    _fields_ = (
        ("width", ctypes.c_int64), ("padded", ctypes.c_int64), ("taps", ctypes.c_int64), ("stride", ctypes.c_int64),
        ("outputs", ctypes.c_int64), ("threes", ctypes.c_int64), ("weights", ctypes.c_void_p),
        ("scales", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("largest_norm", ctypes.c_float),
        ("norm_scale", ctypes.c_void_p), ("norm_bias", ctypes.c_void_p), ("norm_epsilon", ctypes.c_float),
        ("gelu", ctypes.c_int32),
    )  # fmt: skip


class IntegerLayer:
    """A convolution over time, or a linear layer, with its bias, layer norm and GELU, in products of 16-bit integers.

    Each block of 64 inputs and each output's weights have a scale of their own. Within 1e-4 of the layer in float32,
    relative to its largest output: a third of the rounding of TF32, in which GPUs do convolutions by default.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, stride: int = 1, norm: nn.LayerNorm | None = None,
        gelu: bool = False,
    ) -> None:  # fmt: skip
        """From `weight` `(outputs, width, taps)` as a convolution has it, or `(outputs, width)`."""
        kernel = weight.detach().float().reshape(*weight.shape[:2], -1).permute(0, 2, 1).numpy()
        self.outputs, self.taps, self.width = kernel.shape
        self.stride = stride
        threes = self.taps == 3 and stride == 2
        terms = _terms_of_threes(kernel) if threes else kernel
        padded, columns = _up(self.width, COLUMNS), _up(self.outputs, COLUMNS)
        full = np.zeros((columns, terms.shape[1], padded), dtype=np.float32)
        full[: self.outputs, :, : self.width] = terms
        scales = np.abs(full).max(axis=(1, 2)) / LARGEST_WEIGHT
        scales[scales == 0] = 1
        integers = np.rint(full / scales[:, None, None])
        largest_norm = max(
            np.linalg.norm(integers[:, :, start : start + BLOCK], axis=2).max()
            for start in range(0, padded, BLOCK)
        )
        panels = integers.reshape(-1, COLUMNS, terms.shape[1], padded // 2, 2).transpose(0, 2, 3, 1, 4)
        self.weights, self.scales = _aligned(panels.astype(np.int16)), _aligned(scales.astype(np.float32))
        self.bias = _padded(bias, columns)
        self.norm = () if norm is None else (_padded(norm.weight), _padded(norm.bias))
        norm_scale, norm_bias = (array.ctypes.data for array in self.norm) if norm else (None, None)
        self._layer = _Layer(
            self.width, padded, self.taps, stride, self.outputs, int(threes), self.weights.ctypes.data,
            self.scales.ctypes.data, self.bias.ctypes.data, float(largest_norm) * (1 + 1e-6), norm_scale, norm_bias,
            norm.eps if norm else 0.0, int(gelu),
        )  # fmt: skip

    def rescaled(self, scale: torch.Tensor, bias: torch.Tensor) -> IntegerLayer:
        """The same layer with each output multiplied by `scale` and another bias, both `(outputs,)`."""
        other = copy.copy(self)
        other.scales = self.scales * _padded(scale, self.scales.size)
        other.bias = _padded(bias, self.bias.size)
        other._layer = _Layer.from_buffer_copy(self._layer)
        other._layer.scales, other._layer.bias = other.scales.ctypes.data, other.bias.ctypes.data
        return other

    def n_frames(self, n: int) -> int:
        """Of `n` frames."""
        return (n - self.taps) // self.stride + 1

    def reach(self, n_frames: int) -> int:
        """Inputs that so many outputs hear."""
        return (n_frames - 1) * self.stride + self.taps

    def __call__(self, frames: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """`(frames, width)` float32 to `(fewer frames, outputs)`; the frames may overlap in memory, as windows do."""
        n = self.n_frames(len(frames))
        out = torch.empty(n, self.outputs) if out is None else out
        assert frames.dtype == torch.float32
        assert (frames.shape[1], frames.stride(1)) == (self.width, 1)
        assert (out.shape, out.stride()) == ((n, self.outputs), (self.outputs, 1))
        compiled = kernels()
        assert compiled is not None
        failed = compiled.ser_layer(
            ctypes.addressof(self._layer), frames.data_ptr(), frames.stride(0), out.data_ptr(), n,
            torch.get_num_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError("the encoder's kernels found no memory")
        return out


def gru(
    gates: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """The states `(total frames, 2, units)` of a bidirectional GRU, without a gradient.

    Args:
        gates: `(2 * total frames, 3 * units)`, as in `ser.gru`.
        starts, lengths: `(batch,)` of the utterances.
        weight, bias: `(2, 3 * units, units)` of the products of a step, and `(2, units)` of the last gate's.
    """
    compiled = kernels()
    assert compiled is not None
    units, batch = weight.shape[2], len(lengths)
    width = _up(3 * units, GRU_COLUMNS)
    matrix = nn.functional.pad(weight.transpose(1, 2), (0, width - 3 * units)).contiguous()
    biases = nn.functional.pad(bias, (2 * units, width - 3 * units)).contiguous()
    states, room = torch.empty(len(gates) // 2, 2, units), torch.empty(2 * batch, width)
    arrays = (gates.contiguous(), matrix, biases, states, starts, lengths)
    compiled.ser_gru(
        *(array.data_ptr() for array in arrays), batch, units, width, room.data_ptr(), torch.get_num_threads()
    )
    return states


def gru_forward(
    gates: torch.Tensor, order: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, weight: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The recurrence of a bidirectional GRU, with what its gradient needs.

    Args:
        gates: `(rows, 3 * units)`, as in `ser.gru`.
        order: `(batch,)` the utterances from the longest to the shortest.
        starts, lengths: `(batch,)` of the utterances.
        weight, bias: as for `gru`.

    Returns:
        `(rows, 3 * units)` the reset gate, the update gate and the product that is reset; `(rows, units)` the new gate;
        `(rows, units)` the states.
    """
    compiled = kernels()
    assert compiled is not None
    units = weight.shape[2]
    panels = weight.view(2, 3, -1, LANES, units).permute(0, 2, 4, 1, 3).contiguous()
    products, (fresh, states) = torch.empty_like(gates), gates.new_empty(2, len(gates), units)
    arrays = (
        gates.contiguous(), products, fresh, states, panels, bias.contiguous(), starts[order], lengths[order]
    )  # fmt: skip
    compiled.ser_gru_forward(
        *(array.data_ptr() for array in arrays), len(order), units, torch.get_num_threads()
    )
    return products, fresh, states


def gru_back(
    d_states: torch.Tensor, products: torch.Tensor, fresh: torch.Tensor, states: torch.Tensor, order: torch.Tensor,
    starts: torch.Tensor, lengths: torch.Tensor, weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The gradient of `gru_forward`.

    Args:
        d_states: `(rows, units)` the gradient of the states, without what later steps add.
        products, fresh, states: what `gru_forward` gave.
        order, starts, lengths, weight: as there.

    Returns:
        `(rows, 3 * units)` of the gates; `(rows, units)` of the product that is reset; `(rows, units)` the state before
        each.
    """
    compiled = kernels()
    assert compiled is not None
    units = weight.shape[2]
    padded = _up(units, GRU_PANEL)
    columns = nn.functional.pad(weight, (0, padded - units)).view(2, 3, units, -1, GRU_PANEL)
    panels, later = columns.transpose(2, 3).contiguous(), weight.new_empty(2, len(order), padded)
    d_gates, (d_hidden, before) = torch.empty_like(products), products.new_empty(2, *states.shape)
    arrays = (
        products, fresh, states, d_states.contiguous(), d_gates, d_hidden, before, panels, later, starts[order],
        lengths[order],
    )  # fmt: skip
    compiled.ser_gru_back(*(array.data_ptr() for array in arrays), len(order), units, torch.get_num_threads())
    return d_gates, d_hidden, before


def _terms_of_threes(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(outputs, 3, width)` to `(outputs, 7, width)`: what the rows of `THREES` in kernels.c meet, in its order."""
    first, middle, last = kernel.transpose(1, 0, 2)
    return np.stack([first, middle, middle, last, middle, first + last, first - last], axis=1)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    """A copy whose first number lies on a multiple of 64 bytes."""
    room = np.empty(array.nbytes + 64, dtype=np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _padded(values: torch.Tensor | None, size: int | None = None) -> NDArray[np.float32]:
    """`(size,)` with zeros behind the values; without `size` the values alone."""
    given = torch.empty(0) if values is None else values.detach().float()
    return np.pad(given.numpy(), (0, (size or len(given)) - len(given)))
