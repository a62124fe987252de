"""The convolutions of HuBERT-like encoders as few large matrix products, for frozen use on a CPU.

`speed_up(model)` puts two modules in the place of transformers' own, in a frozen HuBERT, wav2vec 2.0 or WavLM; what
comes out is equal to about 1e-5 of its size, in three quarters of the time for DistilHuBERT. In: `(batch, samples)`.

- Frames lie `(frames, channels)`, so a strided convolution is one product per tap or group of taps, without a copy.
- Kernel 3, stride 2 (where most of the time goes): the two taps that fall on even frames are computed four outputs
  at a time with five products instead of eight (Toom-Cook, Winograd's F(4, 2)).
- The group norm of the first layer is folded into its kernel: mean and variance of a convolution's output follow from
  mean and covariance of the samples under the kernel. The long first output is never stored whole.
- The position embedding, 128 taps wide, is done by FFT in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

BLOCK = 2048  # output frames done together: bounds what is held at once; smaller blocks made smaller, slower products
POINTS = (0.0, 1.0, -1.0, 2.0)  # and infinity: where F(4, 2) evaluates its polynomials
OUTPUTS, EVALUATIONS = 4, 5
MIN_FFT_TAPS = 32  # below, a plain convolution is as fast


def speed_up(model: nn.Module) -> bool:
    """Replace the front end and the position embedding of a frozen float32 model, where their kind is known.

    Returns:
        whether the front end was replaced; if not, the model is as it was and right, only slower.
    """
    parts: Any = model
    layers = getattr(getattr(parts, "feature_extractor", None), "conv_layers", None)
    if layers is None or not all(is_known(layer, index) for index, layer in enumerate(layers)):
        return False
    parts.feature_extractor = FrontEnd(layers)
    embedding = getattr(getattr(parts, "encoder", None), "pos_conv_embed", None)
    if embedding is not None and is_wide(embedding):
        parts.encoder.pos_conv_embed = PositionEmbedding(embedding)
    return True


class FrontEnd(nn.Module):
    """The strided convolutions of a front end, each with its norm and GELU."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        first = layers[0]
        self.kernel, self.stride = first.conv.kernel_size[0], first.conv.stride[0]
        self.first_weight = first.conv.weight.detach()[:, 0]  # (channels, taps)
        self.first_bias = _bias(first.conv)
        self.norm = getattr(first, "layer_norm", None)
        self.rest = nn.ModuleList(_StridedLayer(layer) for layer in list(layers)[1:])

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """`(batch, samples)` to `(batch, channels, frames)`, as transformers' own."""
        return torch.stack([self._one(samples) for samples in waveforms]).transpose(1, 2)

    def _one(self, samples: torch.Tensor) -> torch.Tensor:
        windows = samples.unfold(0, self.kernel, self.stride).contiguous()
        weight, bias, norm = self._folded(windows)
        if not len(self.rest):
            return _activate(torch.addmm(bias, windows, weight), norm)
        following: Any = self.rest[0]
        frames = following.room(len(windows))
        before = torch.empty(following.reach(min(BLOCK, len(frames))), weight.shape[1])
        for start, stop, rows in following.blocks(windows):
            inputs = torch.addmm(bias, rows, weight, out=before[: len(rows)])
            following(_activate(inputs, norm), out=frames[start:stop])
        for layer in list(self.rest)[1:]:
            frames = layer.in_blocks(frames)
        return frames

    def _folded(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, nn.Module | None]:
        """Kernel `(taps, channels)` and bias of the first layer, its group norm folded in; and what norm is left."""
        if not isinstance(self.norm, nn.GroupNorm):
            return self.first_weight.t(), self.first_bias, self.norm
        scale, bias = folded_norm(windows, self.first_weight, self.norm)
        return (self.first_weight * scale[:, None]).t(), bias, None


def folded_norm(
    windows: torch.Tensor, weight: torch.Tensor, norm: nn.GroupNorm
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a convolution's outputs are multiplied with, and what is added, where a norm over time follows it.

    Args:
        windows: `(frames, taps)`, the samples under the kernel.
        weight: `(channels, taps)`; the convolution's own bias is part of the mean that the norm takes off.
        norm: with a group a channel.
    """
    exact, kernel = windows.double(), weight.double()
    mean = exact.mean(dim=0)
    centred = exact - mean
    covariance = centred.t() @ centred / len(windows)
    variance = ((kernel @ covariance) * kernel).sum(dim=1)
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    return scale.float(), (norm.bias.double() - scale * (kernel @ mean)).float()


class _StridedLayer(nn.Module):
    """A strided convolution over `(frames, channels)` with its norm and GELU."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.kernel, self.stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        self.norm = getattr(layer, "layer_norm", None)
        self.bias = None if layer.conv.bias is None else layer.conv.bias.detach()
        taps = layer.conv.weight.detach().permute(2, 1, 0)  # (kernel, in, out)
        # The taps of one stride lie beside each other in memory, as the frames that they meet do.
        self.taps = [part.flatten(0, 1).contiguous() for part in taps.split(self.stride)]
        self.winograd = self.kernel == 3 and self.stride == 2
        if self.winograd:
            to_outputs, to_weights, to_inputs = _toom_cook()
            self.to_outputs, self.to_inputs = to_outputs, to_inputs
            self.even = torch.einsum("pt,tio->pio", to_weights, taps[::2]).contiguous()
            self.odd = taps[1].contiguous()

    def n_frames(self, n: int) -> int:
        return (n - self.kernel) // self.stride + 1

    def reach(self, n_frames: int) -> int:
        """Inputs that so many outputs hear."""
        return (n_frames - 1) * self.stride + self.kernel

    def room(self, n: int) -> torch.Tensor:
        """For the outputs of `n` inputs."""
        return torch.empty(self.n_frames(n), self.taps[0].shape[1])

    def blocks(self, inputs: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
        """First output of a block, the one after its last, and the inputs that they hear."""
        n_frames = self.n_frames(len(inputs))
        for start in range(0, n_frames, BLOCK):
            stop = min(start + BLOCK, n_frames)
            yield start, stop, inputs[start * self.stride :][: self.reach(stop - start)]

    def in_blocks(self, frames: torch.Tensor) -> torch.Tensor:
        out = self.room(len(frames))
        for start, stop, inputs in self.blocks(frames):
            self(inputs, out=out[start:stop])
        return out

    def forward(self, frames: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """`(frames, in)` contiguous to `(fewer frames, out)`, written into `out`."""
        grouped = len(out) - len(out) % OUTPUTS if self.winograd else 0
        if grouped:
            self._grouped(frames, out[:grouped])
        if grouped < len(out):
            self._direct(frames[self.stride * grouped :], out[grouped:])
        return _activate(out, self.norm)

    def _direct(self, frames: torch.Tensor, out: torch.Tensor) -> None:
        width = frames.shape[1]
        for number, taps in enumerate(self.taps):
            rows = frames[number * self.stride :].as_strided((len(out), len(taps)), (self.stride * width, 1))
            if number:
                out.addmm_(rows, taps)
            else:
                self._first(rows, taps, out)

    def _grouped(self, frames: torch.Tensor, out: torch.Tensor) -> None:
        """So many outputs that they are a multiple of four."""
        width, groups = frames.shape[1], len(out) // OUTPUTS
        even = frames.as_strided((groups, EVALUATIONS, width), (2 * OUTPUTS * width, 2 * width, 1))
        evaluated = torch.bmm(self.to_inputs.expand(groups, -1, -1), even)
        products = torch.empty(groups, EVALUATIONS, self.odd.shape[1])
        for point in range(EVALUATIONS):
            torch.mm(evaluated[:, point], self.even[point], out=products[:, point])
        self._first(frames[1:].as_strided((len(out), width), (2 * width, 1)), self.odd, out)
        out.view(groups, OUTPUTS, -1).baddbmm_(self.to_outputs.expand(groups, -1, -1), products)

    def _first(self, rows: torch.Tensor, taps: torch.Tensor, out: torch.Tensor) -> None:
        """The first product of a sum, with the bias."""
        if self.bias is None:
            torch.mm(rows, taps, out=out)
        else:
            torch.addmm(self.bias, rows, taps, out=out)


class PositionEmbedding(nn.Module):
    """The grouped convolution over time that tells a transformer where a frame stands, by overlapping FFTs."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        conv = embedding.conv
        self.kernel, self.groups, self.padding = conv.kernel_size[0], conv.groups, conv.padding[0]
        self.size = 2 * self.kernel  # of one FFT
        self.bias = _bias(conv)
        weight = conv.weight.detach().unflatten(0, (self.groups, -1))  # (groups, out, in, taps)
        spectrum = torch.fft.rfft(weight, self.size).conj()
        self.spectrum = spectrum.permute(3, 0, 2, 1).flatten(0, 1).contiguous()  # (bins * groups, in, out)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, dim)` to the same shape."""
        batch, n_frames, _ = hidden.shape
        step = self.size - self.kernel + 1
        blocks = -(-n_frames // step)
        padded = functional.pad(hidden, (0, 0, self.padding, blocks * step + self.kernel - n_frames))
        pieces = padded.unfold(1, self.size, step)[:, :blocks].flatten(0, 1)  # (batch * blocks, dim, size)
        bins = torch.fft.rfft(pieces).unflatten(1, (self.groups, -1)).permute(3, 1, 0, 2)
        mixed = torch.bmm(bins.flatten(0, 1), self.spectrum).unflatten(0, (-1, self.groups))
        out = torch.fft.irfft(mixed.permute(2, 1, 3, 0).flatten(1, 2), self.size)[..., :step]
        out = out.unflatten(0, (batch, blocks)).permute(0, 1, 3, 2).flatten(1, 2)[:, :n_frames]
        return functional.gelu(out + self.bias)


def _activate(frames: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
    """In place."""
    return torch.ops.aten.gelu.out(frames if norm is None else norm(frames), out=frames)


def _bias(conv: Any) -> torch.Tensor:
    return torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()


def _toom_cook() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`(4, 5)`, `(5, 2)` and `(5, 5)`: products to outputs, taps to weights, inputs to what they are multiplied with.

    The transpose of the product of a cubic with a line by its values at five points (Winograd 1980).
    """

    def values(n_coefficients: int) -> torch.Tensor:
        rows = [[point**power for power in range(n_coefficients)] for point in POINTS]
        return torch.tensor([*rows, [0.0] * (n_coefficients - 1) + [1.0]], dtype=torch.float64)

    to_inputs = torch.linalg.inv(values(EVALUATIONS)).t()
    return values(OUTPUTS).t().float().contiguous(), values(2).float(), to_inputs.float().contiguous()


def is_known(layer: Any, index: int) -> bool:
    """A convolution without padding or groups, GELU, and one of the norms that this file knows."""
    conv, norm = getattr(layer, "conv", None), getattr(layer, "layer_norm", None)
    if not isinstance(conv, nn.Conv1d) or conv.padding != (0,) or conv.groups != 1 or conv.dilation != (1,):
        return False
    if (
        conv.weight.dtype != torch.float32
        or conv.weight.device.type != "cpu"
        or not is_gelu(layer.activation)
    ):
        return False
    if isinstance(norm, nn.GroupNorm):
        return index == 0 and norm.num_groups == norm.num_channels
    return norm is None or isinstance(norm, nn.LayerNorm)


def is_wide(embedding: Any) -> bool:
    """A wide convolution of an even kernel, whose last frame is cut off, GELU, no batch norm."""
    conv = getattr(embedding, "conv", None)
    return (
        isinstance(conv, nn.Conv1d)
        and getattr(embedding, "batch_norm", None) is None
        and conv.kernel_size[0] >= MIN_FFT_TAPS
        and conv.kernel_size[0] % 2 == 0
        and conv.padding[0] == conv.kernel_size[0] // 2
        and is_gelu(embedding.activation)
    )


def is_gelu(activation: Any) -> bool:
    """Whether it is the exact GELU, whatever the class is called: compared on a few numbers."""
    at = torch.linspace(-3, 3, 7)
    return bool(torch.equal(activation(at), functional.gelu(at)))
