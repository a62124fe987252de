"""The files of an encoder: where a source has them, and the transformers model that they hold.

In: a hub id, a folder, or "shipped". Out: a frozen model whose every weight was there, and what identifies it.
Called by: `ser.encoders.encoder`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ser.encoders import hub
from ser.encoders.states import FINAL_NORM, WHISPER
from ser.errors import EncoderError
from ser.files import SHIPPED, SHIPPED_ENCODER
from ser.runtime import import_torchaudio

MOST_LAYERS = 1_000
TRAINING_ONLY = "masked_spec_embed"  # not in every checkpoint, without effect on features
# Fields of config.json that decide how the same weights compute; sizes are in the weights' own shapes.
COMPUTING_FIELDS = (
    "model_type", "num_attention_heads", "layer_norm_eps", "hidden_act", "activation_function",
    "feat_extract_activation", "feat_extract_norm", "conv_stride", "num_conv_pos_embedding_groups",
    "do_stable_layer_norm", "num_buckets", "max_bucket_distance", FINAL_NORM,
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """An encoder's files."""

    folder: Path
    source: str  # finds them again from any working directory: a hub id, an absolute path, or "shipped"
    name: str
    remedy: str  # when a file is damaged

    def json(self, file: str) -> dict[str, Any]:
        """One of the JSON files; an EncoderError where it is missing or does not hold an object."""
        try:
            content = json.loads((self.folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise EncoderError(
                f"The encoder {self.name} is incomplete: {file} is missing or not JSON. {self.remedy}"
            ) from error
        if not isinstance(content, dict):
            raise EncoderError(f"{file} of {self.name} does not describe an encoder. {self.remedy}")
        return content

    @property
    def normalise(self) -> bool:
        """Whether `preprocessor_config.json` requests utterances of zero mean and unit variance."""
        return self._preprocessed("do_normalize")

    @property
    def speech_only(self) -> bool:
        """Whether `preprocessor_config.json` requests speech alone, at one level: see `ser.audio.speech.speech_of`."""
        return self._preprocessed("speech_only")

    def _preprocessed(self, step: str) -> bool:
        file = "preprocessor_config.json"
        return (self.folder / file).exists() and bool(self.json(file).get(step, False))


def locate(source: str | Path) -> Place:
    """Find an encoder's files, on the hub if need be.

    Raises:
        EncoderError: there is no such folder, or the hub does not have it.
    """
    if source == SHIPPED:
        return Place(SHIPPED_ENCODER, SHIPPED, SHIPPED, "Install the project again.")
    if Path(source).is_dir():
        folder = Path(source).resolve()
        return Place(folder, str(folder), folder.name, "Copy the folder again.")
    text = str(source).rstrip("@")
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise EncoderError(
            f"There is no encoder folder {text}. Give a folder with config.json and weights, or a hub id."
        )
    return Place(hub.fetch(text), text, text, f"Fetch it again with: {hub.command(text)} --force-download")


def load_model(place: Place) -> Any:
    """Load strictly: every weight that the configuration calls for must be there, in its shape.

    Raises:
        EncoderError: the weights are missing, damaged, incomplete, or of an unknown kind.
    """
    model_type, classes = str(place.json("config.json").get("model_type")), _model_classes()
    if model_type not in classes:
        raise EncoderError(f"{place.name} is a model of the kind {model_type!r}; the kinds {', '.join(classes)} work.")
    _check_number_of_layers(place)
    options: dict[str, Any] = {"local_files_only": True, "dtype": torch.float32}
    if model_type == WHISPER:  # a whole Whisper has its encoder under a prefix
        options["key_mapping"] = {r"^(model\.)?encoder\.": ""}
    try:
        with quiet_transformers():
            load = classes[model_type].from_pretrained
            model, report = load(place.folder, output_loading_info=True, **options)
    except Exception as error:
        # transformers and safetensors raise whatever the damage leads to; all of it means the same to a user.
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise EncoderError(f"The encoder {place.name} cannot be loaded ({reason}). {place.remedy}") from error
    wrong = [key for key in report["missing_keys"] if not key.endswith(TRAINING_ONLY)]
    wrong += [entry[0] for entry in report.get("mismatched_keys", [])]
    if wrong:
        raise EncoderError(
            f"The weights of {place.name} do not fit its config.json: {len(wrong)} missing or of another shape, "
            f"the first {wrong[0]}. {place.remedy}"
        )
    return model


def _check_number_of_layers(place: Place) -> None:
    """Refuse more layers than the weights can have tensors, before any is built."""
    from safetensors import SafetensorError, safe_open

    config = place.json("config.json")
    claimed = config.get("encoder_layers" if config.get("model_type") == WHISPER else "num_hidden_layers", 0)
    path = place.folder / "model.safetensors"
    try:
        with safe_open(str(path), "numpy") as file:
            held = len(file.keys())
    except (OSError, SafetensorError):
        held = MOST_LAYERS  # other files, or none: said by what loads them
    if not isinstance(claimed, int) or claimed > min(held, MOST_LAYERS):
        raise EncoderError(
            f"config.json of {place.name} claims {claimed} layers, more than its weights can hold. {place.remedy}"
        )


def identify(model: nn.Module) -> str:
    """SHA-256 of the weights as they were stored, their shapes, and the configuration that computes with them.

    Weight-normed kernels are hashed before they are computed: their last bits depend on the number of threads.
    """
    fields = {name: getattr(model.config, name, None) for name in COMPUTING_FIELDS}
    known = {name: value for name, value in fields.items() if value is not None}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for key, tensor in sorted(model.state_dict().items()):
        if not key.endswith(TRAINING_ONLY):
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Planar(nn.Conv1d):
    """A convolution over time as one over a plane of height 1, as which torch computes it anyway.

    ONNX Runtime has faster code for planes: of DistilHuBERT's shape, 4 s took 119 ms instead of 149.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not isinstance(self.padding, str)
        options = [(1, *self.stride), (0, *self.padding), (1, *self.dilation), self.groups]
        return nn.functional.conv2d(x[:, :, None], self.weight[:, :, None], self.bias, *options)[:, :, 0]


def freeze(model: nn.Module) -> None:
    """Prepare a loaded model for frames alone: weight-normed kernels are computed once, convolutions are planar.

    Weights are copied out of the file, which stays mapped into memory otherwise: overwriting it would end the process.
    """
    for module in model.modules():
        if nn.utils.parametrize.is_parametrized(module, "weight"):
            nn.utils.parametrize.remove_parametrizations(module, "weight")
        if type(module) is nn.Conv1d:
            module.__class__ = Planar
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    model.eval().requires_grad_(False)


def _model_classes() -> dict[str, Any]:
    import_torchaudio()
    from transformers import HubertModel, Wav2Vec2Model, WavLMModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return {"hubert": HubertModel, "wav2vec2": Wav2Vec2Model, "wavlm": WavLMModel, WHISPER: WhisperEncoder}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar, and no table of keys: what is wrong goes into one message."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)
