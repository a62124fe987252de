"""A frozen speech encoder: samples at 16 kHz in, frames out, 50 a second.

One interface over transformers' HuBERT (DistilHuBERT among them), wav2vec 2.0, WavLM and Whisper encoders,
from a local folder or the Hugging Face hub, any hidden layer. The features of an utterance never depend on
the utterances beside it: only utterances of equal length share a batch, because models with a group norm in
their front end take no attention mask, and zero padding would change their frames.

    encoder = Encoder.load("ntu-spml/distilhubert")
    frames, = encoder([samples])          # (frames, 768) float32
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ser.audio.load import SAMPLE_RATE_HZ
from ser.encoders import hub
from ser.encoders.chunking import FRAME_RATE_HZ, FRAME_SAMPLES, Frames, chunks, normalised
from ser.errors import EncoderError
from ser.runtime import chosen_device, import_torchaudio

DISTILHUBERT = "ntu-spml/distilhubert"  # section 3.3 of the paper
TRAINING_ONLY = "masked_spec_embed"  # not in every checkpoint, without effect on features
BATCH_S = 60  # seconds of audio in one batch of equally long utterances


class Encoder:
    """A frozen encoder with one chosen hidden layer.

    Attributes:
        digest: SHA-256 of the stored weights.
        name: the hub id, with `@revision` where one was asked for, or the folder's name.
        layer: the hidden layer whose states are returned; 0 is the front end's output, `n_layers` the last.
        dim: numbers a frame.
        frame_rate_hz: frames a second.
    """

    frame_rate_hz = FRAME_RATE_HZ
    n_stacked = 0  # 0: one layer; else so many up to `layer`, see `stacked`

    def __init__(
        self, model: nn.Module, name: str, digest: str, layer: int | None = None, normalise: bool = False
    ) -> None:
        self.n_layers = int(getattr(model.config, "encoder_layers", 0) or model.config.num_hidden_layers)
        self.layer = self.n_layers if layer is None else layer
        if not 0 <= self.layer <= self.n_layers:
            raise EncoderError(f"{name} has layers 0 to {self.n_layers}; layer {layer} was asked for.")
        self.name, self.digest = name, digest
        self.normalise = normalise
        self.model = model.eval().requires_grad_(False)
        self.dim = int(model.config.hidden_size)
        self.overlap = max(0, _receptive_field(model.config, name) - FRAME_SAMPLES)

    @classmethod
    def load(
        cls,
        source: str | Path = DISTILHUBERT,
        layer: int | None = None,
        device: str | torch.device | None = None,
    ) -> Encoder:
        """Load an encoder from a local folder or the hub.

        Args:
            source: a folder with `config.json` and weights, or a hub id: `owner/name`, `owner/name@revision`.
            layer: the hidden layer to return, the last by default.
            device: where to run, for instance "cuda"; by default where SER_DEVICE says.

        Raises:
            EncoderError: the weights are missing, damaged, incomplete, of an unknown kind, or out of reach;
                the message names the command that fetches them.
        """
        where = chosen_device() if device is None else torch.device(device)
        place = _locate(source)
        config = _read_json(place, "config.json")
        model_type = str(config.get("model_type"))
        model = _load_model(place, model_type)
        digest = _weights_digest(model)
        _own_weights(model)
        kind = WhisperFrames if model_type == "whisper" else cls
        return kind(model.to(where), place.name, digest, layer, _do_normalize(place))

    def stacked(self, n_layers: int) -> Encoder:
        """The same encoder with the states of `n_layers` layers, the last of them its own, in every frame.

        Its frames are `(frames, n_layers, dim)`; 0 gives back one layer, `(frames, dim)`.

        Raises:
            EncoderError: there are not so many.
        """
        if not 0 <= n_layers <= self.layer + 1:
            raise EncoderError(
                f"{self.name} has {self.layer + 1} layers up to layer {self.layer}, the front end counted; "
                f"{n_layers} were asked for."
            )
        other = copy.copy(self)
        other.n_stacked = n_layers
        return other

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of weights, layer and normalisation, the same on every machine."""
        layers = f"{self.n_stacked} to {self.layer}" if self.n_stacked else f"{self.layer}"
        identity = f"{layers} {self.normalise} {type(self).__name__} {self.digest}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def parallel(self) -> bool:
        """Whether several threads gain by calling it at once, as they may."""
        return self.device.type == "cpu"

    def __call__(self, utterances: Sequence[NDArray[np.float32]]) -> list[Frames]:
        """Encode utterances.

        Args:
            utterances: each `(samples,)` float32 at 16 kHz, at least 0.1 s.

        Returns:
            For each, `(frames, dim)` float32; 50 frames a second, the same whatever else is in the list. Of
            several layers `(frames, layers, dim)`.
        """
        pieces: list[tuple[int, NDArray[np.float32]]] = []
        for index, samples in enumerate(utterances):
            ready = normalised(samples) if self.normalise else samples
            pieces += [(index, piece) for piece in chunks(ready, self.overlap)]
        encoded: list[Frames | None] = [None] * len(pieces)
        for batch in _equal_length_batches([piece for _, piece in pieces]):
            waveforms = torch.from_numpy(np.stack([pieces[i][1] for i in batch]))
            with torch.inference_mode():
                frames = self._frames(waveforms.to(self.device)).float().cpu().numpy()
            for i, one in zip(batch, frames, strict=True):
                encoded[i] = one
        whole: list[list[Frames]] = [[] for _ in utterances]
        for (index, _), one in zip(pieces, encoded, strict=True):
            assert one is not None
            whole[index].append(one)
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in whole]

    def hidden_states(self, waveforms: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Hidden states `(batch, frames, dim)` of each of `layers` for `(batch, samples)`."""
        states = self.model(waveforms, output_hidden_states=True).hidden_states
        return [states[layer] for layer in layers]

    def _frames(self, waveforms: torch.Tensor) -> torch.Tensor:
        if not self.n_stacked:
            return self.hidden_states(waveforms, [self.layer])[0]
        layers = range(self.layer + 1 - self.n_stacked, self.layer + 1)
        return torch.stack(self.hidden_states(waveforms, layers), dim=2)


class WhisperFrames(Encoder):
    """Whisper's encoder on the utterance's own mel frames, positions cut to length: no padding to 30 s."""

    @cached_property
    def mel(self) -> Any:
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor(feature_size=self.model.config.num_mel_bins)

    def hidden_states(self, waveforms: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        mel = self.mel(
            list(waveforms.cpu().numpy()), sampling_rate=SAMPLE_RATE_HZ, padding=False, truncation=False,
            return_tensors="pt",
        )  # fmt: skip
        model: Any = self.model
        dtype = model.conv1.weight.dtype
        hidden = nn.functional.gelu(model.conv1(mel.input_features.to(self.device, dtype)))
        hidden = nn.functional.gelu(model.conv2(hidden)).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[: hidden.shape[1]]
        states = [hidden]
        for layer in model.layers[: max(layers)]:
            states.append(layer(states[-1], None))
        if max(layers) == self.n_layers:
            states[-1] = model.layer_norm(states[-1])
        return [states[layer] for layer in layers]


def _receptive_field(config: Any, name: str) -> int:
    """Samples that one frame hears, by the convolutions of the front end; Whisper has none.

    Raises:
        EncoderError: the encoder does not give 50 frames a second.
    """
    if config.model_type == "whisper":
        return FRAME_SAMPLES
    field, stride = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    if stride != FRAME_SAMPLES:
        raise EncoderError(
            f"{name} gives a frame every {stride} samples; one every {FRAME_SAMPLES} is needed "
            f"({FRAME_RATE_HZ} a second)."
        )
    return field


def _equal_length_batches(waveforms: Sequence[NDArray[np.float32]]) -> Iterator[list[int]]:
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, waveform in enumerate(waveforms):
        by_length[waveform.size].append(index)
    for length, indices in by_length.items():
        size = max(1, BATCH_S * SAMPLE_RATE_HZ // length)
        yield from (indices[start : start + size] for start in range(0, len(indices), size))


@dataclass(frozen=True)
class _Place:
    """Where an encoder's files are, what it is called, and what to do when they are damaged."""

    folder: Path
    name: str
    remedy: str


def _locate(source: str | Path) -> _Place:
    if Path(source).is_dir():
        return _Place(Path(source), Path(source).resolve().name, "Copy the folder again.")
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise EncoderError(
            f"There is no encoder folder {text}. Give a folder with config.json and weights, or a hub id."
        )
    again = f"Fetch it again with: {hub.command(text)} --force-download"
    return _Place(hub.fetch(text), text.rstrip("@"), again)


def _read_json(place: _Place, file: str) -> dict[str, Any]:
    try:
        content = json.loads((place.folder / file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError(
            f"The encoder {place.name} is incomplete: {file} is missing or not JSON. {place.remedy}"
        ) from error
    if not isinstance(content, dict):
        raise EncoderError(f"{file} of {place.name} does not describe an encoder. {place.remedy}")
    return content


def _do_normalize(place: _Place) -> bool:
    file = "preprocessor_config.json"
    return (
        bool(_read_json(place, file).get("do_normalize", False)) if (place.folder / file).exists() else False
    )


def _load_model(place: _Place, model_type: str) -> Any:
    """Load strictly: every weight that the configuration calls for must be there, in its shape."""
    import_torchaudio()
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    classes = {
        "hubert": transformers.HubertModel,
        "wav2vec2": transformers.Wav2Vec2Model,
        "wavlm": transformers.WavLMModel,
        "whisper": WhisperEncoder,
    }
    if model_type not in classes:
        raise EncoderError(
            f"{place.name} is a model of the kind {model_type!r}; the kinds {', '.join(classes)} work."
        )
    # A whole Whisper keeps its encoder under a prefix.
    names = {r"^(model\.)?encoder\.": ""} if model_type == "whisper" else None
    try:
        with _quiet_transformers():
            model, report = classes[model_type].from_pretrained(
                place.folder, local_files_only=True, output_loading_info=True, dtype=torch.float32,
                key_mapping=names,
            )  # fmt: skip
    except Exception as error:
        # transformers and safetensors raise whatever the damage leads to; all of it means the same to a user.
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise EncoderError(f"The encoder {place.name} cannot be loaded ({reason}). {place.remedy}") from error
    missing = [key for key in report["missing_keys"] if not key.endswith(TRAINING_ONLY)]
    mismatched = [entry[0] for entry in report.get("mismatched_keys", [])]
    if missing or mismatched:
        raise EncoderError(
            f"The weights of {place.name} do not fit its config.json: {len(missing)} missing, "
            f"{len(mismatched)} of another shape, the first {(missing + mismatched)[0]}. {place.remedy}"
        )
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar, and no table of keys: what is wrong goes into one message."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _weights_digest(model: nn.Module) -> str:
    """SHA-256 of the weights as they were stored.

    Weight-normed kernels are hashed before they are computed: their last bits depend on the number of threads.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if not key.endswith(TRAINING_ONLY):
            digest.update(key.encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _own_weights(model: nn.Module) -> None:
    """Compute weight-normed kernels once, as the encoder is frozen, and let go of the file: it stays mapped
    into memory otherwise, and its being overwritten would end the process."""
    for module in model.modules():
        if nn.utils.parametrize.is_parametrized(module, "weight"):
            nn.utils.parametrize.remove_parametrizations(module, "weight")
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
