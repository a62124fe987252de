"""The student of a distillation: the first layers of an encoder as a model of their own, and its prediction heads.

In: a frozen encoder, which may be the teacher itself (figure 2 of the paper). Out: a model to train, and the folder
that `Encoder.load` reads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ser.encoders.encoder import Encoder
from ser.encoders.loading import quiet_transformers
from ser.encoders.states import FINAL_NORM, WHISPER, final_norm, hidden_states, n_layers
from ser.errors import SettingsError
from ser.files import read_json, write_json

MASKING = ("mask_time_prob", "mask_feature_prob")  # off in a student, as every dropout


@dataclass(frozen=True)
class Student:
    """A model to train, of the transformers class of the encoder that it was taken from, every dropout off."""

    model: Any
    normalise: bool  # whether it hears utterances of zero mean and unit variance
    origin: Mapping[str, Any]  # name, fingerprint and number of layers of what it was taken from
    speech_only: bool = False  # whether its folder asks for speech alone, at one level

    @classmethod
    def first_layers(cls, encoder: Encoder, n: int | None = None) -> Student:
        """Copy an encoder's front end and its first `n` layers, by default all of them.

        The student's last layer gives the frames of the encoder's layer `n`: of models with a norm behind their last
        layer, the norm is left out where `n` is not the last ("final_norm": false in the student's configuration).

        Raises:
            SettingsError: the encoder does not have that many layers.
        """
        n = encoder.n_layers if n is None else n
        if not 1 <= n <= encoder.n_layers:
            raise SettingsError(f"{encoder.name} has layers 1 to {encoder.n_layers}; the first {n} were requested.")
        config = copy.deepcopy(encoder.model.config)
        for name, value in config.to_dict().items():
            if isinstance(value, float) and ("drop" in name or name in MASKING):
                setattr(config, name, 0.0)
        setattr(config, "encoder_layers" if config.model_type == WHISPER else "num_hidden_layers", n)
        if n < encoder.n_layers and final_norm(encoder.model) is not None:
            setattr(config, FINAL_NORM, False)
        model = type(encoder.model)(config)
        _copy_weights(encoder.model, model)
        origin = {"name": encoder.name, "fingerprint": encoder.fingerprint, "layers": n}
        return cls(model, encoder.normalise, origin, encoder.speech_only)

    def write(self, folder: Path, about: Mapping[str, Any], half: bool = False) -> None:
        """Write an encoder folder, weights in half precision if so wished, with `about` as `distillation.json`."""
        from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

        dtype = torch.float16 if half else torch.float32
        weights = {key: value.detach().cpu().to(dtype) for key, value in self.model.state_dict().items()}
        config = self.model.config
        with quiet_transformers():
            self.model.save_pretrained(folder, state_dict=weights)
        if config.model_type == WHISPER:
            extractor = WhisperFeatureExtractor(config.num_mel_bins, do_normalize=self.normalise)
        else:
            extractor = Wav2Vec2FeatureExtractor(do_normalize=self.normalise, return_attention_mask=False)
        extractor.save_pretrained(folder)
        if self.speech_only:
            settings = folder / "preprocessor_config.json"
            write_json(settings, read_json(settings) | {"speech_only": True})
        write_json(folder / "distillation.json", dict(about))


class Distiller(nn.Module):
    """The student with one linear prediction head for each distilled teacher layer (Chang et al. 2022).

    `mean` and `scale`, `(layers, 1, 1, teacher dim)`, are the teacher's; 0 until they are measured.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, student: nn.Module, n_teacher_layers: int, teacher_dim: int) -> None:
        super().__init__()
        self.student = student
        dim = student.config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(dim, teacher_dim) for _ in range(n_teacher_layers))
        for name in ("mean", "scale"):
            self.register_buffer(name, torch.zeros(n_teacher_layers, 1, 1, teacher_dim))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """`(batch, samples)` to predictions `(layers, batch, frames, teacher dim)`."""
        (hidden,) = hidden_states(self.student, waveforms, [n_layers(self.student.config)])
        return torch.stack([head(hidden) for head in self.heads])


def _copy_weights(frozen: nn.Module, model: nn.Module) -> None:
    """Copy what the two have in common; a frozen encoder has its weight norm folded in, the model has not."""
    weights = {key: value.cpu() for key, value in frozen.state_dict().items()}
    for name, module in model.named_modules():
        if nn.utils.parametrize.is_parametrized(module, "weight"):
            module.weight = weights[f"{name}.weight"]
    state = model.state_dict()
    model.load_state_dict({key: weights.get(key, value) for key, value in state.items()})
