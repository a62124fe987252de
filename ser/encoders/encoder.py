"""A frozen speech encoder: samples at 16 kHz in, frames out, 50 a second.

One interface over transformers' HuBERT (DistilHuBERT among them), wav2vec 2.0, WavLM and Whisper encoders,
from a local folder or the Hugging Face hub, any hidden layer. Each utterance is encoded alone: models with a group
norm in their front end take no attention mask, and the zeros of a padded batch would change their frames.

    encoder = Encoder.load("ntu-spml/distilhubert")
    frames, = encoder([samples])          # (frames, 768) float32
"""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ser.encoders import trace
from ser.encoders.chunking import FRAME_RATE_HZ, FRAME_SAMPLES, Frames
from ser.encoders.graph import GraphDescription, Session, encoded, engine_name, find_session, graph_name, keep
from ser.encoders.loading import Place, freeze, identify, load_model, locate
from ser.encoders.states import LayerFrames, field_and_stride, hidden_states, n_layers
from ser.errors import EncoderError
from ser.files import write_atomically
from ser.runtime import chosen_device

DISTILHUBERT = "ntu-spml/distilhubert"  # section 3.3 of the paper

Engine = Literal["auto", "torch"]

log = logging.getLogger(__name__)


class Encoder:
    """A frozen encoder with one chosen hidden layer.

    Attributes:
        source: what `load` finds it by from any working directory: a hub id, with `@revision` where one was requested,
            an absolute path, or "shipped".
        name: the hub id, the folder's name, or "shipped".
        digest: SHA-256 of the stored weights and of the configuration that computes with them.
        layer: the hidden layer whose states are returned; 0 is the front end's output, `n_layers` the last. Models
            with a norm behind their last layer return that layer's states after the norm, as transformers'
            `last_hidden_state` does.
        dim: feature dimension of a frame.
        normalise: utterances are brought to zero mean and unit variance first.
        speech_only: it is to be given speech alone, at one level: see `ser.audio.speech.speech_of`.
        overlap: samples by which the last frame of a piece hears beyond it.
    """

    n_stacked = 0  # 0: one layer; else that many layers up to `layer`, see `stacked`

    def __init__(
        self, model: nn.Module, place: Place, digest: str, layer: int | None = None, engine: Engine = "auto"
    ) -> None:
        self.model, self.digest, self._engine = model, digest, engine
        self.source, self.name, self.normalise = place.source, place.name, place.normalise
        self.speech_only, self._folder = place.speech_only, place.folder
        self.n_layers, self.dim = n_layers(model.config), int(model.config.hidden_size)
        self.layer = self.n_layers if layer is None else layer
        if not 0 <= self.layer <= self.n_layers:
            raise EncoderError(f"{self.name} has layers 0 to {self.n_layers}; layer {layer} was requested.")
        field, stride = field_and_stride(model.config)
        if stride != FRAME_SAMPLES:
            raise EncoderError(
                f"{self.name} gives a frame every {stride} samples; one every {FRAME_SAMPLES} is needed "
                f"({FRAME_RATE_HZ} a second)."
            )
        self.overlap = max(0, field - FRAME_SAMPLES)
        self._choose_frames()

    @classmethod
    def load(
        cls,
        source: str | Path = DISTILHUBERT,
        layer: int | None = None,
        device: str | torch.device | None = None,
        engine: Engine = "auto",
    ) -> Encoder:
        """Load an encoder from a local folder or the hub.

        Args:
            source: a folder with `config.json` and weights, a hub id (`owner/name`, `owner/name@revision`), or
                "shipped".
            layer: the hidden layer to return, the last by default.
            device: where to run, for instance "cuda"; by default where SER_DEVICE says.
            engine: "auto" computes frames by ONNX Runtime on a processor, where it can, else by torch.

        Raises:
            EncoderError: the weights are missing, damaged, incomplete, of an unknown kind, or out of reach;
                the message names the command that fetches them.
        """
        where = chosen_device() if device is None else torch.device(device)
        place = locate(source)
        model = load_model(place)
        digest = identify(model)
        freeze(model)
        return cls(model.to(where), place, digest, layer, engine)

    def stacked(self, n_layers: int) -> Encoder:
        """The same encoder with the states of `n_layers` layers, the last of them its own, in every frame.

        Its frames are `(frames, n_layers, dim)`; 0 gives back one layer, `(frames, dim)`.

        Raises:
            EncoderError: it has fewer layers.
        """
        if not 0 <= n_layers <= self.layer + 1:
            raise EncoderError(
                f"{self.name} has {self.layer + 1} layers up to layer {self.layer}, the front end counted; "
                f"{n_layers} were requested."
            )
        if n_layers == self.n_stacked:
            return self
        other = copy.copy(self)
        other.n_stacked = n_layers
        other._choose_frames()
        return other

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of weights, configuration, layers and preparation."""
        layers = f"{self.n_stacked} to {self.layer}" if self.n_stacked else f"{self.layer}"
        identity = f"{layers} {self.normalise}{' speech' if self.speech_only else ''} {self.digest}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    @property
    def engine(self) -> str:
        """What computes the frames, such as "onnxruntime 1.32.0": rounding differs from engine to engine."""
        if self._session() is not None:
            return engine_name()
        where = "" if self.device.type == "cpu" else f" on {self.device.type}"
        return f"torch {torch.__version__.split('+')[0]}{where}"

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
            for each, `(frames, dim)` float32, or of several layers `(frames, layers, dim)`.
        """
        return [encoded(samples, self.normalise, self.overlap, self._run) for samples in utterances]

    def hidden_states(self, waveforms: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Hidden states `(batch, frames, dim)` of each of `layers` for `(batch, samples)`, by torch."""
        return hidden_states(self.model, waveforms, layers)

    def write_graph(self) -> Path:
        """Write the graph of these layers into the encoder's folder, for answers without torch; returns its path.

        The weights stay in the folder's safetensors file, so they are stored once.

        Raises:
            EncoderError: the encoder does not come from a folder with one `model.safetensors`.
        """
        weights = self._folder / "model.safetensors"
        if not weights.is_file():
            raise EncoderError(f"{self.name} has no model.safetensors, which its graph could share.")
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        about = replace(self.description, weights=weights.name, weights_sha256=digest)
        path = self._folder / graph_name(self.fingerprint)
        graph, _ = trace.traced(self.frames, about)
        write_atomically(path, trace.without_weights(graph, weights))
        trace.compare(Session(path), self.frames)
        return path

    @property
    def description(self) -> GraphDescription:
        """What a graph of its frames says of itself."""
        return GraphDescription(self.fingerprint, self.normalise, self.speech_only, self.overlap)

    def _choose_frames(self) -> None:
        first = self.layer + 1 - max(1, self.n_stacked)
        self.frames = LayerFrames(self.model, range(first, self.layer + 1), stack=self.n_stacked > 0)
        self._onnx: Session | None = None
        self._by_torch = self._engine == "torch" or self.device.type != "cpu"
        self._opening = threading.Lock()

    def _session(self) -> Session | None:
        """The graph, found or traced at the first call; None where torch computes."""
        with self._opening:
            if self._onnx is None and not self._by_torch:
                try:
                    self._onnx = find_session(self.fingerprint, self._folder)
                    if self._onnx is None:
                        graph, self._onnx = trace.traced(self.frames, self.description)
                        keep(self.fingerprint, graph)
                except Exception as error:  # tracer and onnxruntime raise whatever the model leads to
                    self._give_up(error)
            return self._onnx

    def _run(self, waveforms: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(1, samples)` to `(1, frames, ...)`."""
        session = self._session()
        if session is not None:
            try:
                return session(waveforms)
            except Exception as error:  # onnxruntime's classes have no common base
                self._give_up(error)
        with torch.inference_mode():
            frames: NDArray[np.float32] = self.frames(torch.from_numpy(waveforms).to(self.device)).float().cpu().numpy()
        return frames

    def _give_up(self, reason: Exception) -> None:
        self._onnx, self._by_torch = None, True
        text = f"{type(reason).__name__}: {' '.join(str(reason).split())[:200]}"
        log.warning("ONNX Runtime cannot compute this encoder (%s); torch does, more slowly", text)
