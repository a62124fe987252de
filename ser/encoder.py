"""A frozen speech encoder: samples at 16 kHz in, frames out, 50 a second.

One interface over transformers' HuBERT (DistilHuBERT among them), wav2vec 2.0, WavLM and Whisper encoders,
from a local folder or the Hugging Face hub, any hidden layer. The features of an utterance never depend on
the utterances beside it: only utterances of equal length share a batch, because models with a group norm in
their front end take no attention mask, and zero padding would change their frames.

    encoder = Encoder.load("ntu-spml/distilhubert")
    frames, = encoder([samples])          # (frames, 768) float32
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ser.audio import SAMPLE_RATE_HZ
from ser.compat import import_torchaudio
from ser.errors import EncoderError

DISTILHUBERT = "ntu-spml/distilhubert"  # section 3.3 of the paper
SHIPPED = Path(__file__).parent.parent / "checkpoints" / "encoder"
FRAME_RATE_HZ = 50
FRAME_SAMPLES = SAMPLE_RATE_HZ // FRAME_RATE_HZ
CHUNK_S = 30  # a longer recording is encoded piece by piece: attention needs memory with the square of it
BATCH_S = 60  # seconds of audio in one batch of equally long utterances

Frames = NDArray[np.float32]


class Encoder:
    """A frozen encoder with one chosen hidden layer.

    Attributes:
        name: the hub id, with `@revision` where one was asked for, or the folder's name.
        layer: the hidden layer whose states are returned; 0 is the front end's output, `n_layers` the last.
        dim: numbers a frame.
        frame_rate_hz: frames a second.
    """

    frame_rate_hz = FRAME_RATE_HZ

    def __init__(self, model: nn.Module, name: str, layer: int | None = None, normalise: bool = False) -> None:
        self.n_layers = int(getattr(model.config, "encoder_layers", 0) or model.config.num_hidden_layers)
        self.layer = self.n_layers if layer is None else layer
        if not 0 <= self.layer <= self.n_layers:
            raise EncoderError(f"{name} has layers 0 to {self.n_layers}; layer {layer} was asked for.")
        self.name = name
        self.normalise = normalise
        self.model = model.eval().requires_grad_(False)
        self.dim = int(model.config.hidden_size)

    @classmethod
    def load(cls, source: str | Path = DISTILHUBERT, layer: int | None = None, device: str = "cpu") -> Encoder:
        """Load an encoder from a local folder or the hub.

        Args:
            source: a folder with `config.json` and weights, or a hub id, `owner/name` or `owner/name@revision`.
            layer: the hidden layer to return, the last by default.
            device: where to run, for instance "cuda".

        Raises:
            EncoderError: the weights are missing, damaged, incomplete, of an unknown kind, or out of reach; the
                message names the command that fetches them.
        """
        folder, name, revision = _locate(source)
        model_type = _model_type(folder)
        model = _load_model(folder, model_type, name)
        _fuse_weight_norm(model)
        kind = WhisperFrames if model_type == "whisper" else cls
        encoder = kind(model.to(device), f"{name}@{revision}" if revision else name, layer, _do_normalize(folder))
        encoder.prepare(folder)
        return encoder

    def prepare(self, folder: Path) -> None:
        """Read what else the kind needs from its folder."""

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of weights, layer and normalisation: equal means equal features."""
        digest = hashlib.sha256(f"{self.layer} {self.normalise} {type(self).__name__}".encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(self, utterances: Sequence[NDArray[np.float32]]) -> list[Frames]:
        """Encode utterances.

        Args:
            utterances: each `(samples,)` float32 at 16 kHz, at least 0.1 s.

        Returns:
            For each, `(frames, dim)` float32; about 50 frames a second, the same whatever else is in the list.
        """
        pieces: list[tuple[int, NDArray[np.float32]]] = []
        for index, samples in enumerate(utterances):
            pieces += [(index, piece) for piece in _chunks(self._normalised(samples))]
        encoded: list[Frames | None] = [None] * len(pieces)
        for batch in _equal_length_batches([piece for _, piece in pieces]):
            waveforms = torch.from_numpy(np.stack([pieces[i][1] for i in batch]))
            with torch.inference_mode():
                frames = self.hidden_states(waveforms.to(self.device), [self.layer])[0].float().cpu().numpy()
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

    def _normalised(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Zero mean, unit variance over the whole utterance where the model was trained so."""
        if not self.normalise:
            return samples
        return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)


class WhisperFrames(Encoder):
    """Whisper's encoder on the utterance's own mel frames, positions cut to length: no padding to 30 s."""

    def prepare(self, folder: Path) -> None:
        from transformers import WhisperFeatureExtractor

        self.mel = WhisperFeatureExtractor(feature_size=self.model.config.num_mel_bins)

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


def _chunks(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Pieces of about 30 s at most, each a whole number of frames but the last, none a mere scrap."""
    n_pieces = max(1, -(-samples.size // (CHUNK_S * SAMPLE_RATE_HZ)))
    step = -(-samples.size // n_pieces // FRAME_SAMPLES) * FRAME_SAMPLES
    for piece in range(n_pieces):
        yield samples[piece * step : (piece + 1) * step]


def _equal_length_batches(waveforms: Sequence[NDArray[np.float32]]) -> Iterator[list[int]]:
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, waveform in enumerate(waveforms):
        by_length[waveform.size].append(index)
    for length, indices in by_length.items():
        size = max(1, BATCH_S * SAMPLE_RATE_HZ // length)
        yield from (indices[start : start + size] for start in range(0, len(indices), size))


def _locate(source: str | Path) -> tuple[Path, str, str | None]:
    """The local folder of a source, its name, and the hub commit where it came from the hub."""
    if Path(source).is_dir():
        return Path(source), Path(source).resolve().name, None
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise EncoderError(f"There is no encoder folder {text}. Give a folder with config.json and weights, or a hub id.")
    repository, _, revision = text.partition("@")
    return _from_hub(repository, revision or None), repository, revision or None


def _from_hub(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "pytorch_model.bin"]
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except Exception as error:
        # The hub client raises a dozen unrelated classes (its own, httpx's, OSError, ValueError).
        at = f" --revision {revision}" if revision else ""
        raise EncoderError(
            f"The encoder {repository} is neither on this machine nor within reach ({type(error).__name__}). "
            f"With a network connection, fetch it once with: hf download {repository}{at}"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} is missing or not JSON: the encoder folder is incomplete. Fetch it again.") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path} does not describe an encoder. Fetch the folder again.")
    return content


def _model_type(folder: Path) -> str:
    model_type = str(_read_json(folder / "config.json").get("model_type"))
    if model_type not in ("hubert", "wav2vec2", "wavlm", "whisper"):
        raise EncoderError(
            f"{folder} holds a model of the kind {model_type!r}; the kinds hubert, wav2vec2, wavlm and whisper work."
        )
    return model_type


def _do_normalize(folder: Path) -> bool:
    path = folder / "preprocessor_config.json"
    return bool(_read_json(path).get("do_normalize", False)) if path.exists() else False


def _load_model(folder: Path, model_type: str, name: str) -> Any:
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
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = classes[model_type].from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:
        # transformers and safetensors raise whatever the damage leads to; all of it means the same to a user.
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise EncoderError(f"The encoder {name} in {folder} cannot be loaded ({reason}). Fetch it again.") from error
    missing = [key for key in report["missing_keys"] if not key.endswith("masked_spec_embed")]
    mismatched = [entry[0] for entry in report.get("mismatched_keys", [])]
    if missing or mismatched:
        raise EncoderError(
            f"The weights in {folder} do not fit its config.json: {len(missing)} missing, {len(mismatched)} of another "
            f"shape, the first {(missing + mismatched)[0]}. Fetch the folder again."
        )
    return model


def _fuse_weight_norm(model: nn.Module) -> None:
    """Compute weight-normed kernels once; the encoder is frozen."""
    for module in model.modules():
        if nn.utils.parametrize.is_parametrized(module, "weight"):
            nn.utils.parametrize.remove_parametrizations(module, "weight")
