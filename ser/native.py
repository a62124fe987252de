"""The compiled kernels, `ser/*.c`: built with the machine's C compiler when they are first asked for.

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
SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("kernels.c", "attention.c", "position.c", "gru.c")
)
HEADER = Path(__file__).with_name("floats.h")
FLAGS = ("-O2", "-mavx2", "-mfma", "-fPIC")
COMPILE_TIMEOUT_S = 120
COLUMNS, LANES = 16, 8  # as in the sources
NO_MEMORY = "the encoder's kernels found no memory"
LARGEST_INTEGER = 32_767

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
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
        ctypes.c_int,
    ]  # fmt: skip
    loaded.ser_weights.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 2]
    loaded.ser_weights.restype = ctypes.c_float
    loaded.ser_attention.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_int]
    loaded.ser_position.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_int]
    loaded.ser_gru.argtypes = [*[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 3, ctypes.c_void_p, ctypes.c_int]
    loaded.ser_gru_forward.argtypes = [*[ctypes.c_void_p] * 8, *[ctypes.c_int64] * 2, ctypes.c_int]
    loaded.ser_gru_back.argtypes = [*[ctypes.c_void_p] * 11, *[ctypes.c_int64] * 2, ctypes.c_int]
    for function in (loaded.ser_gru, loaded.ser_gru_forward, loaded.ser_gru_back):
        function.restype = None
    return loaded


def description() -> str:
    """What computes the layers here, in words."""
    compiled = kernels()
    if compiled is None:
        return "those of torch"
    return f"compiled, {'AVX-512' if compiled.ser_has_wide() else 'AVX2'}"


def _built() -> Path:
    """The library's file, compiled where it is not there yet.

    OpenMP's functions are left open: they are found in the library that torch has loaded, so that both share their
    threads.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise OSError("there is no C compiler")
    told = b"".join(source.read_bytes() for source in (*SOURCES, HEADER)) + " ".join(FLAGS).encode()
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
        ("gelu", ctypes.c_int32), ("wide", ctypes.c_int32),
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
        compiled = kernels()
        assert compiled is not None
        kernel = weight.detach().float().reshape(*weight.shape[:2], -1).permute(0, 2, 1).numpy()
        self.outputs, self.taps, self.width = kernel.shape
        self.stride = stride
        threes = self.taps == 3 and stride == 2
        terms = _terms_of_threes(kernel) if threes else kernel
        padded, columns = up(self.width, COLUMNS), up(self.outputs, COLUMNS)
        full = np.zeros((columns, terms.shape[1], padded), dtype=np.float32)
        full[: self.outputs, :, : self.width] = terms
        self.weights, self.scales = _room(full.size, np.int16), _room(columns, np.float32)
        largest_norm = compiled.ser_weights(
            full.ctypes.data, *full.shape, self.weights.ctypes.data, self.scales.ctypes.data
        )
        self.bias = _padded(bias, columns)
        self.norm = () if norm is None else (_padded(norm.weight), _padded(norm.bias))
        norm_scale, norm_bias = (array.ctypes.data for array in self.norm) if norm else (None, None)
        self._layer = _Layer(
            self.width, padded, self.taps, stride, self.outputs, int(threes), self.weights.ctypes.data,
            self.scales.ctypes.data, self.bias.ctypes.data, largest_norm * (1 + 1e-6), norm_scale, norm_bias,
            norm.eps if norm else 0.0, int(gelu), int(compiled.ser_has_wide()),
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

    def __call__(
        self, frames: torch.Tensor, out: torch.Tensor | None = None, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(frames, width)` float32 to `(fewer frames, outputs)`; the frames may overlap in memory, as windows do.

        `residual`, of the shape of what comes out, is added before the norm.
        """
        n = self.n_frames(len(frames))
        out = torch.empty(n, self.outputs) if out is None else out
        assert frames.dtype == torch.float32
        assert residual is None or (residual.shape == out.shape and residual.is_contiguous())
        assert (frames.shape[1], frames.stride(1)) == (self.width, 1)
        assert (out.shape, out.stride()) == ((n, self.outputs), (self.outputs, 1))
        compiled = kernels()
        assert compiled is not None
        failed = compiled.ser_layer(
            ctypes.addressof(self._layer), frames.data_ptr(), frames.stride(0),
            None if residual is None else residual.data_ptr(), out.data_ptr(), n, torch.get_num_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError(NO_MEMORY)
        return out


def attention(parts: torch.Tensor, heads: int) -> torch.Tensor:
    """Self-attention: queries, keys and values `(frames, 3 * width)` to `(frames, width)`.

    Each head has a multiple of 8 numbers of the width.
    """
    n, width = len(parts), parts.shape[1] // 3
    out = parts.new_empty(n, width)
    assert parts.dtype == torch.float32
    assert parts.is_contiguous()
    assert width % (heads * LANES) == 0
    compiled = kernels()
    assert compiled is not None
    if compiled.ser_attention(
        parts.data_ptr(), out.data_ptr(), n, heads, width // heads, torch.get_num_threads()
    ):
        raise MemoryError(NO_MEMORY)
    return out


class _Position(ctypes.Structure):
    """`Position` of position.c."""

    _fields_ = (
        ("groups", ctypes.c_int64), ("channels", ctypes.c_int64), ("size", ctypes.c_int64), ("step", ctypes.c_int64),
        ("padding", ctypes.c_int64), ("spectrum", ctypes.c_void_p), ("scales", ctypes.c_void_p),
        ("turns", ctypes.c_void_p), ("bins", ctypes.c_void_p), ("bias", ctypes.c_void_p),
    )  # fmt: skip


class PositionEmbedding:
    """A wide grouped convolution over time, its bias and GELU, added to what it embeds."""

    def __init__(self, conv: nn.Conv1d) -> None:
        """Of an even kernel with as many frames of padding as half of it; see `fits`."""
        kernel, groups, channels = conv.kernel_size[0], conv.groups, conv.out_channels // conv.groups
        size = 2 * kernel
        weight = conv.weight.detach().float().unflatten(0, (groups, channels))  # (groups, out, in, taps)
        spectrum = torch.fft.rfft(weight, size).conj().permute(0, 3, 2, 1) / size
        parts = torch.stack([spectrum.real, spectrum.imag], dim=3).numpy().reshape(-1, LANES)
        scales = np.abs(parts).max(axis=1, keepdims=True) / LARGEST_INTEGER
        scales[scales == 0] = 1
        self.spectrum = _aligned(np.rint(parts / scales).astype(np.int16))
        self.scales = _aligned(scales.astype(np.float32))
        angles = -2 * np.pi * np.arange(kernel) / size
        self.turns = _aligned(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
        bits = size.bit_length() - 1
        self.bins = np.array([int(f"{bin:0{bits}b}"[::-1], 2) for bin in range(size)], dtype=np.int32)
        self.bias = _padded(conv.bias, conv.out_channels)
        self._position = _Position(
            groups, channels, size, size - kernel + 1, kernel // 2,
            *(array.ctypes.data for array in (self.spectrum, self.scales, self.turns, self.bins, self.bias)),
        )  # fmt: skip

    @staticmethod
    def fits(conv: nn.Conv1d) -> bool:
        """Whether the kernels do it: powers of two by FFT, eight channels at a time."""
        kernel, channels = conv.kernel_size[0], conv.out_channels // conv.groups
        return kernel & (kernel - 1) == 0 and channels % LANES == 0 and conv.in_channels == conv.out_channels

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """The frames `(frames, dim)` with their position added."""
        assert frames.dtype == torch.float32
        assert frames.is_contiguous()
        out = torch.empty_like(frames)
        compiled = kernels()
        assert compiled is not None
        if compiled.ser_position(
            ctypes.addressof(self._position), frames.data_ptr(), out.data_ptr(), len(frames),
            torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError(NO_MEMORY)
        return out


def _terms_of_threes(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(outputs, 3, width)` to `(outputs, 7, width)`: what the rows of `THREES` in kernels.c meet, in its order."""
    first, middle, last = kernel.transpose(1, 0, 2)
    return np.stack([first, middle, middle, last, middle, first + last, first - last], axis=1)


def up(n: int, multiple: int) -> int:
    """The next multiple of `multiple` from `n` on."""
    return -(-n // multiple) * multiple


def _room(size: int, dtype: Any) -> NDArray[Any]:
    """`(size,)` whose first number lies on a multiple of 64 bytes."""
    n_bytes = size * np.dtype(dtype).itemsize
    room = np.empty(n_bytes + 64, dtype=np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + n_bytes].view(dtype)


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    """A copy whose first number lies on a multiple of 64 bytes."""
    copy = _room(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _padded(values: torch.Tensor | None, size: int | None = None) -> NDArray[np.float32]:
    """`(size,)` with zeros behind the values; without `size` the values alone."""
    given = torch.empty(0) if values is None else values.detach().float()
    return np.pad(given.numpy(), (0, (size or len(given)) - len(given)))
