"""Recordings made on the spot, and the measures of the tests' tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.labels import EMOTIONS

RATE_HZ = 16_000
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
    """`(samples,)`: harmonics of a wandering pitch with a little noise, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * (0.7 + 0.3 * seed) * time_s)) / rate_hz
    sound = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
    sound = sound * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s)) + 0.02 * rng.standard_normal(time_s.size)
    return (0.2 * sound).astype(np.float32)


def write_voice(
    path: Path, seconds: float = 1.0, rate_hz: int = RATE_HZ, seed: int = 0, **options: Any
) -> Path:
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
