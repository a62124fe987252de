"""From contours to sound: the glottal source, the formants, the noises and the microphone of `ser.synth`.

In: a `Score`, contours of pitch, voicing and formants with one value every 5 ms. Out: `(samples,)` at 16 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ser.audio import SAMPLE_RATE_HZ
from ser.voices import HIGHER_FORMANTS_HZ, EmotionStyle, Phone, Voice

STEP_S = 0.005  # contours have a value every 5 ms
STEP_SAMPLES = round(STEP_S * SAMPLE_RATE_HZ)
FILTER_HOP = 2 * STEP_SAMPLES
FILTER_FFT = 1024  # 64 ms: the narrowest resonance has decayed by 70 dB
OVERSAMPLING = 2  # of the glottal source, against aliasing of its closing edge
OPEN_QUOTIENT = 0.6
TILT_AT_HZ = 3000.0
LEVEL_DB = -27.0  # root mean square of calm speech against full scale

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """What is to be sung: contours with one value every 5 ms (`steps` of them), and the noise segments.

    Attributes:
        f0_hz: `(steps,)`, also where nothing is voiced.
        voicing: `(steps,)` amplitude of the glottal source.
        formants_hz: `(steps, 3)`, already scaled to the voice's vocal tract.
        noises: `(start step, end step, phone)` of each fricative and burst.
        style: the style after the utterance's own variation.
    """

    f0_hz: Array
    voicing: Array
    formants_hz: Array
    noises: tuple[tuple[int, int, Phone], ...]
    style: EmotionStyle


def render(score: Score, voice: Voice, n_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """`(n_samples,)` float32 at 16 kHz, the peak below 1."""
    source = _glottal_source(score, n_samples, rng)
    speech = formant_filter(source, score.formants_hz, voice) + _noise_segments(score, n_samples, voice, rng)
    return _recorded(speech, score, rng)


def _glottal_source(score: Score, n_samples: int, rng: np.random.Generator) -> Array:
    """Derivative of the glottal flow with aspiration, `(samples,)`.

    The pulse is the polynomial of KLGLOTT88 (Klatt and Klatt 1990, doi 10.1121/1.398894): over the open part
    of a cycle the flow is x^2 - x^3, so its derivative is 2x - 3x^2, and the sharp edge is the closure.
    """
    from scipy.signal import lfilter, resample_poly

    rate_hz = SAMPLE_RATE_HZ * OVERSAMPLING
    f0_hz = _to_samples(score.f0_hz, n_samples * OVERSAMPLING, rate_hz)
    cycle = np.cumsum(f0_hz / rate_hz).astype(int)
    jitter = np.clip(rng.normal(1.0, score.style.jitter, cycle[-1] + 2), 0.8, 1.2)
    phase = np.cumsum(f0_hz * jitter[cycle] / rate_hz)
    cycle = phase.astype(int)
    shimmer = np.clip(rng.normal(1.0, 4 * score.style.jitter, cycle[-1] + 1), 0.5, 1.5)
    opened = np.minimum((phase - cycle) / OPEN_QUOTIENT, 1.0)
    pulses = np.where(opened < 1.0, 2 * opened - 3 * opened**2, 0.0) * shimmer[cycle]
    flow = np.where(opened < 1.0, opened**2 - opened**3, 0.0)
    pulses, flow = (resample_poly(signal, 1, OVERSAMPLING) for signal in (pulses, flow))
    pole = _tilt_pole(score.style.tilt_db)
    voiced = lfilter([1 - pole], [1, -pole], pulses)
    breath = rng.normal(size=n_samples) * (0.3 + flow / flow.max())
    breath *= score.style.breath * voiced.std() / breath.std()
    return (voiced + breath) * _to_samples(score.voicing, n_samples, SAMPLE_RATE_HZ)


def _tilt_pole(tilt_db: float) -> float:
    """Pole of the one-pole low-pass filter that loses `tilt_db` at 3 kHz against 0 Hz."""
    gain = 10 ** (-max(tilt_db, 1e-3) / 10)  # of power
    cosine = np.cos(2 * np.pi * TILT_AT_HZ / SAMPLE_RATE_HZ)
    middle = (1 - gain * cosine) / (1 - gain)
    return float(middle - np.sqrt(middle**2 - 1))


def formant_filter(source: Array, formants_hz: Array, voice: Voice) -> Array:
    """Seven resonators in cascade that move with the contours; the result has unit root mean square.

    The source is cut into overlapping Hann windows that add up to one; each goes through its own cascade.
    """
    frames_hz = formants_hz[:: FILTER_HOP // STEP_SAMPLES]
    response = np.ones((len(frames_hz), FILTER_FFT // 2 + 1), dtype=complex)
    for frequency_hz in [*frames_hz.T[..., None], *(np.array(HIGHER_FORMANTS_HZ) * voice.tract)]:
        response *= _resonance(np.minimum(frequency_hz, 0.47 * SAMPLE_RATE_HZ))
    padded = np.concatenate(
        [np.zeros(FILTER_HOP), source, np.zeros(FILTER_FFT + FILTER_HOP * len(frames_hz))]
    )
    starts = FILTER_HOP * np.arange(len(frames_hz))
    window = np.hanning(2 * FILTER_HOP + 1)[:-1]
    windows = padded[starts[:, None] + np.arange(2 * FILTER_HOP)] * window
    pieces = np.fft.irfft(np.fft.rfft(windows, FILTER_FFT) * response, FILTER_FFT)
    filtered = np.zeros(len(padded))
    for start, piece in zip(starts, pieces, strict=True):
        filtered[start : start + FILTER_FFT] += piece
    filtered = filtered[FILTER_HOP : FILTER_HOP + len(source)]
    return filtered / np.sqrt(np.mean(filtered**2))


def _resonance(frequency_hz: Array | float) -> NDArray[np.complex128]:
    """Response of a two-pole resonator with unit gain at 0 Hz, `(..., bins)` for `(..., 1)` frequencies."""
    bandwidth_hz = 40 + 0.045 * np.asarray(frequency_hz)  # about 60 Hz at F1 to 330 Hz at F7
    radius = np.exp(-np.pi * bandwidth_hz / SAMPLE_RATE_HZ)
    first, second = -2 * radius * np.cos(2 * np.pi * frequency_hz / SAMPLE_RATE_HZ), radius**2
    delay = np.exp(-2j * np.pi * np.arange(FILTER_FFT // 2 + 1) / FILTER_FFT)
    return (1 + first + second) / (1 + first * delay + second * delay**2)


def _noise_segments(score: Score, n_samples: int, voice: Voice, rng: np.random.Generator) -> Array:
    """Fricatives and bursts, `(samples,)`, against speech of unit root mean square."""
    from scipy.signal import sosfilt

    total = np.zeros(n_samples)
    for start, end, phone in score.noises:
        band = _octave_band(min(phone.noise_hz * voice.tract, 5500.0))
        n = (end - start) * STEP_SAMPLES
        noise = sosfilt(band, rng.normal(size=n)) * np.hanning(n + 2)[1:-1]
        noise *= 3 * phone.noise / max(noise.std(), 1e-9)
        piece = total[start * STEP_SAMPLES : end * STEP_SAMPLES]
        piece += noise[: len(piece)]
    return total


@cache
def _octave_band(middle_hz: float) -> Array:
    from scipy.signal import butter

    edges_hz = [middle_hz / np.sqrt(2), middle_hz * np.sqrt(2)]
    return butter(2, edges_hz, "bandpass", fs=SAMPLE_RATE_HZ, output="sos")


def _recorded(speech: Array, score: Score, rng: np.random.Generator) -> NDArray[np.float32]:
    """Speech at its level, through a microphone of random brightness, with the noise of a room."""
    from scipy.signal import lfilter

    speech = lfilter([1.0, rng.uniform(-0.25, 0.25)], [1.0], speech)
    speech *= 10 ** ((LEVEL_DB + score.style.level_db) / 20) / np.sqrt(np.mean(speech**2))
    room = lfilter([1.0], [1.0, -0.8], rng.normal(size=len(speech)))
    speech += room / room.std() * 10 ** (rng.uniform(-66.0, -54.0) / 20)
    return (speech * min(1.0, 0.95 / np.abs(speech).max())).astype(np.float32)


def _to_samples(contour: Array, n_samples: int, rate_hz: int) -> Array:
    """A contour of one value every 5 ms at every sample."""
    return np.interp(np.arange(n_samples) / rate_hz, np.arange(len(contour)) * STEP_S, contour)
