"""Recordings made on the spot, and the measures of the tests' tiny models."""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.audio.load import load_audio
from ser.audio.resample import resample
from ser.audio.speech import speech_of, speech_spans
from ser.files import DEMO_CORPUS
from ser.labels import EMOTIONS

ROOT = Path(__file__).parents[1]  # of the repository
RATE_HZ = 16_000
N_CLIPS = 217  # of the demonstration corpus
TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "conv_dim": (16,) * 7,
}  # fmt: skip
WHISPER: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "begin_suppress_tokens": None,
}  # fmt: skip


def voice(seconds: float = 1.0, rate_hz: int = RATE_HZ, seed: int = 0) -> NDArray[np.float32]:
    """`(samples,)` of somebody who speaks, over and over; the same for the same arguments."""
    spoken = _spoken(seed % N_CLIPS)
    repeated = np.resize(spoken, round(seconds * RATE_HZ) + 1)
    sound = repeated if rate_hz == RATE_HZ else resample(repeated, RATE_HZ, rate_hz)
    return np.resize(sound, round(seconds * rate_hz)) * np.float32(1 - seed % 1000 / 10_000)  # no two alike


@cache
def _spoken(number: int) -> NDArray[np.float32]:
    """The speech of one of the clips, or of the next one whose first half second would do as a recording."""
    clips = sorted(DEMO_CORPUS.glob("*.ogg"))
    spoken = (speech_of(load_audio(clip)).samples for clip in clips[number:] + clips)
    found = next(one for one in spoken if speech_spans(one[: RATE_HZ // 2]))
    return (0.9 * found / np.abs(found).max()).astype(np.float32)


def write_voice(path: Path, seconds: float = 1.0, rate_hz: int = RATE_HZ, seed: int = 0, **options: Any) -> Path:
    """A recording of `voice`; options go to `soundfile.write`."""
    soundfile.write(path, voice(seconds, rate_hz, seed), rate_hz, **options)
    return path


def encode(
    path: Path, codec: str, samples: NDArray[np.float32] | None = None, rate_hz: int = RATE_HZ,
    bit_rate: int = 64_000, **options: str,
) -> Path:  # fmt: skip
    """A recording of `voice`, or of samples, in a format that libsndfile does not write; options of the container."""
    import av

    sound = voice(2.0, rate_hz) if samples is None else samples
    tracks = np.ascontiguousarray(np.atleast_2d(sound.T), np.float32)
    layout = {1: "mono", 2: "stereo"}[len(tracks)]
    with av.open(str(path), "w", format=options.pop("format", None), options=options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(tracks, format="fltp", layout=layout)
        frame.sample_rate = rate_hz
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def save_encoder(folder: Path) -> Path:
    """A HuBERT of random weights."""
    import torch

    from ser.runtime import import_torchaudio

    import_torchaudio()
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(40)
    HubertModel(HubertConfig(**TINY)).save_pretrained(folder)
    return folder


def save_classifier(
    folder: Path, encoder_folder: Path, calibration: Any, wa: dict[str, float], voices: float = 0.0, **more: Any
) -> Path:
    """A checkpoint with a classifier of random weights on an encoder."""
    import torch

    from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings
    from ser.classifier.checkpoint import Checkpoint, EncoderReference, save_checkpoint
    from ser.encoders.encoder import Encoder

    encoder = Encoder.load(encoder_folder)
    settings = ClassifierSettings(base_units=8, final_units=4, voices=voices)
    torch.manual_seed(40)
    model = BiGRUClassifier(encoder.dim, len(EMOTIONS), settings)
    if voices:
        model.voice_mean.fill_(0.3)
        model.voice_deviation.fill_(0.5)
    reference = EncoderReference(str(encoder_folder), encoder.layer, encoder.fingerprint, encoder.dim)
    scores = {"wa": wa, "conditions": "random weights, for tests only"}
    checkpoint = Checkpoint(EMOTIONS, reference, settings, calibration=calibration, scores=scores, **more)
    return save_checkpoint(folder, checkpoint, model)


def write_corpus(folder: Path, n_speakers: int, per_emotion: int = 1) -> Path:
    """A corpus of tones with a `metadata.csv`: every speaker in every one of the six emotions."""
    folder.mkdir(parents=True)
    rows = ["path,speaker,emotion"]
    for speaker in range(n_speakers):
        for number, emotion in enumerate(emotion for emotion in EMOTIONS for _ in range(per_emotion)):
            write_voice(folder / f"{speaker}_{number}.wav", seed=100 * speaker + number)
            rows.append(f"{speaker}_{number}.wav,s{speaker},{emotion}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
