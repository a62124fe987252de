"""A source-filter synthesiser of emotional babble, and the demonstration corpus made with it.

In: a voice, an emotion, a seed and a length. Out: `(samples,)` float32 at 16 kHz. A glottal source (pulses
with jitter, shimmer, tremor, aspiration noise and spectral tilt) drives a cascade of formant resonators
through random syllables of Persian vowels and simple consonants.

It is a demonstration: the clips let the whole road from a folder of recordings to a confusion matrix be
walked without any recording of a person. **A figure obtained on them says nothing about human speech.**
"""

from __future__ import annotations

import csv
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser.audio import SAMPLE_RATE_HZ
from ser.errors import CorpusError, SettingsError
from ser.labels import EMOTIONS
from ser.source_filter import STEP_S, Array, Score, render
from ser.voices import (
    CONSONANTS,
    NEUTRAL_VOWEL_HZ,
    SPREAD,
    STYLES,
    VOICES,
    VOWELS,
    EmotionStyle,
    Phone,
    Voice,
)

MARGIN_S = 0.08  # silence before and after the syllables
MIN_DURATION_S, MAX_DURATION_S = 0.5, 60.0
F0_LIMITS_HZ = (55.0, 550.0)
BURST_S = 0.015
DEMO_LENGTHS_S = (1.2, 2.5)
DEMO_SEED = 40
EXAMPLE_LENGTH_S = 2.5
EXAMPLE_VOICES = {"anger": 1, "fear": 0, "happiness": 6, "neutral": 3, "sadness": 8, "surprise": 5}


def synthesise(voice: Voice, emotion: str, seed: int, duration_s: float = 2.0) -> NDArray[np.float32]:
    """Speak random syllables; the same arguments give the same samples.

    Returns:
        `(samples,)` float32 at 16 kHz, `duration_s` long, the peak below 1.

    Raises:
        SettingsError: an unknown emotion, or a duration outside 0.5 to 60 s.
    """
    rng = _generator(voice, emotion, seed)
    score = _compose(voice, emotion, duration_s, rng)
    return render(score, voice, round(duration_s * SAMPLE_RATE_HZ), rng)


def score_of(voice: Voice, emotion: str, seed: int, duration_s: float = 2.0) -> Score:
    """The contours that `synthesise` follows for the same arguments."""
    return _compose(voice, emotion, duration_s, _generator(voice, emotion, seed))


def write_demo_corpus(
    folder: str | Path,
    n_per_emotion: int = 3,
    voices: Sequence[Voice] = VOICES,
    seed: int = DEMO_SEED,
) -> Path:
    """Write a demonstration corpus: `n_per_emotion` clips of 1.2 to 2.5 s for each voice and emotion.

    The files are 16-bit WAV, with a `metadata.csv` of the columns path (relative), speaker, gender, emotion.
    A result on this corpus says nothing about human speech.

    Returns:
        The path of `metadata.csv`, which is written last.

    Raises:
        SettingsError: fewer than one clip asked for, or no voice.
        CorpusError: the folder cannot be written.
    """
    if n_per_emotion < 1 or not voices:
        raise SettingsError(
            f"A corpus needs clips and voices; {n_per_emotion} clips of {len(voices)} voices asked for."
        )
    folder = Path(folder)
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(["path", "speaker", "gender", "emotion"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for voice, emotion, number in _utterances(voices, n_per_emotion):
            name = f"{voice.name}_{emotion}_{number + 1}.wav"
            length_s = _generator(voice, emotion, seed + number).uniform(*DEMO_LENGTHS_S)
            _write_audio(folder / name, synthesise(voice, emotion, seed + number, length_s))
            table.writerow([name, voice.name, voice.gender, emotion])
        metadata = folder / "metadata.csv"
        _replace(metadata, rows.getvalue().encode())
    except OSError as error:
        raise CorpusError(
            f"The demonstration corpus cannot be written to {folder}: {error.strerror}."
        ) from error
    return metadata


def write_examples(folder: str | Path) -> list[Path]:
    """Write the page's example clips, one an emotion, as `example_<emotion>.flac`.

    Raises:
        CorpusError: the folder cannot be written.
    """
    folder = Path(folder)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for emotion, voice in EXAMPLE_VOICES.items():
            path = folder / f"example_{emotion}.flac"
            _write_audio(path, synthesise(VOICES[voice], emotion, DEMO_SEED, EXAMPLE_LENGTH_S))
            paths.append(path)
    except OSError as error:
        raise CorpusError(f"The example clips cannot be written to {folder}: {error.strerror}.") from error
    return paths


def _utterances(voices: Sequence[Voice], n_per_emotion: int) -> Iterator[tuple[Voice, str, int]]:
    return ((voice, emotion, n) for voice in voices for emotion in EMOTIONS for n in range(n_per_emotion))


def _generator(voice: Voice, emotion: str, seed: int) -> np.random.Generator:
    if emotion not in STYLES:
        raise SettingsError(f"There is no emotion {emotion!r}; choose one of {', '.join(EMOTIONS)}.")
    if seed < 0:
        raise SettingsError(f"A seed must not be negative, got {seed}.")
    return np.random.default_rng([seed, zlib.crc32(voice.name.encode()), EMOTIONS.index(emotion)])


def _perform(voice: Voice, emotion: str, rng: np.random.Generator) -> EmotionStyle:
    """The style of one utterance: on the way from neutral to the emotion, with a spread: they overlap."""
    strength = voice.expression * (0.6 + 0.55 * rng.beta(2.5, 1.5))
    values = {}
    for field in fields(EmotionStyle):
        calm, full, spread = (
            getattr(style, field.name) for style in (STYLES["neutral"], STYLES[emotion], SPREAD)
        )
        values[field.name] = calm + strength * (full - calm) + spread * rng.normal()
    for name, floor in (("f0_range_st", 0.3), ("tremor_st", 0.0), ("jitter", 0.002), ("accent_db", 0.3)):
        values[name] = max(values[name], floor)
    values["rate_hz"] = float(np.clip(values["rate_hz"] * voice.rate, 2.2, 7.5))
    values["tilt_db"] = max(values["tilt_db"] + voice.tilt_db, 0.0)
    values["breath"] = max(values["breath"] * voice.breath, 0.005)
    return EmotionStyle(**values)


def _compose(voice: Voice, emotion: str, duration_s: float, rng: np.random.Generator) -> Score:
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        raise SettingsError(
            f"A clip of {duration_s} s cannot be made; {MIN_DURATION_S} to {MAX_DURATION_S:.0f} s can."
        )
    style = _perform(voice, emotion, rng)
    phones = _syllables(style, duration_s - 2 * MARGIN_S, rng)
    edges_s = MARGIN_S + np.concatenate([[0.0], np.cumsum([seconds for _, seconds, _ in phones])])
    edges = np.round(edges_s / STEP_S).astype(int)
    n_steps = int(np.ceil(duration_s / STEP_S)) + 1
    syllable = np.zeros(n_steps, dtype=int)
    voicing = np.zeros(n_steps)
    formants_hz = np.tile(np.array(NEUTRAL_VOWEL_HZ), (n_steps, 1))
    noises = []
    accents_db = style.accent_db * rng.normal(size=phones[-1][2] + 1)
    for (start, end), (phone, _, index) in zip(pairwise(edges), phones, strict=True):
        syllable[start:] = index
        voicing[start:end] = phone.voicing * 10 ** (accents_db[index] / 20)
        formants_hz[start:end] = phone.formants_hz
        if phone.noise:
            noises.append((max(start, end - round(BURST_S / STEP_S)) if phone.burst else start, end, phone))
    middle = np.array(NEUTRAL_VOWEL_HZ)
    formants_hz = voice.tract * (middle + style.reach * (formants_hz - middle))
    f0_hz = voice.f0_hz * 2 ** (_intonation(style, syllable, edges[0], edges[-1], rng) / 12)
    return Score(
        f0_hz=np.clip(f0_hz, *F0_LIMITS_HZ),
        voicing=_smooth(voicing, 0.008),
        formants_hz=_smooth(formants_hz, 0.018),
        noises=tuple(noises),
        style=style,
    )


def _syllables(
    style: EmotionStyle, speech_s: float, rng: np.random.Generator
) -> list[tuple[Phone, float, int]]:
    """`(phone, seconds, number of the syllable)` that fill `speech_s`; every third syllable is closed."""
    vowels, consonants = list(VOWELS.values()), list(CONSONANTS.values())
    phones: list[tuple[Phone, float, int]] = []
    n_syllables = max(2, round(speech_s * style.rate_hz))
    for index in range(n_syllables):
        vowel = vowels[rng.integers(len(vowels))]
        parts = [consonants[rng.integers(len(consonants))], vowel]
        if rng.random() < 1 / 3:
            parts.append(consonants[rng.integers(len(consonants))])
        longer = 1.35 if index == n_syllables - 1 else 1.0  # final lengthening
        phones += [(part, part.length * longer * rng.uniform(0.85, 1.15), index) for part in parts]
    total = sum(length for _, length, _ in phones)
    return [(phone, length * speech_s / total, index) for phone, length, index in phones]


def _intonation(
    style: EmotionStyle, syllable: NDArray[np.int_], first: int, last: int, rng: np.random.Generator
) -> Array:
    """Semitones above the voice's own pitch, `(steps,)`: shift, slope, accents, final movement, tremor."""
    steps = np.arange(len(syllable))
    position = np.clip((steps - first) / max(last - first, 1), 0.0, 1.0)
    accents = style.f0_range_st * rng.normal(size=syllable[-1] + 1)
    final = style.f0_final_st * np.where(syllable == syllable[-1], 1.0, 0.0)
    tremor_hz, tremor_phase = rng.uniform(5.0, 8.0), rng.uniform(0, 2 * np.pi)
    tremor = style.tremor_st * np.sin(2 * np.pi * tremor_hz * steps * STEP_S + tremor_phase)
    movement = _smooth(accents[syllable] - accents.mean() + final, 0.045)
    return style.f0_shift_st + style.f0_slope_st * (position - 0.5) + movement + tremor


def _smooth(contour: Array, sigma_s: float) -> Array:
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(contour, sigma_s / STEP_S, axis=0, mode="nearest")


def _write_audio(path: Path, samples: NDArray[np.float32]) -> None:
    import soundfile

    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE_HZ, subtype="PCM_16", format=path.suffix[1:].upper())
    _replace(path, encoded.getvalue())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
