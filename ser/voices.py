"""Who speaks, how, and with which sounds: the tables of the synthesiser in `ser.synth`.

Plain numbers in frozen dataclasses. They were chosen for the demonstration after what is commonly described
for emotional speech (anger loud and bright, sadness slow and falling, fear high and trembling, ...), not
fitted to recordings.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Voice:
    """One artificial speaker.

    Attributes:
        name: unique, also the speaker's name in the demonstration corpus.
        gender: "female" or "male".
        f0_hz: fundamental frequency of calm speech.
        tract: factor on every formant; 1.0 is a typical adult male, longer vocal tracts are below.
        breath: factor on the aspiration noise.
        tilt_db: added spectral tilt, dB at 3 kHz.
        rate: factor on the speaking rate.
        expression: how strongly this voice shows an emotion; 1.0 is as the style says.
    """

    name: str
    gender: str
    f0_hz: float
    tract: float
    breath: float = 1.0
    tilt_db: float = 0.0
    rate: float = 1.0
    expression: float = 1.0


@dataclass(frozen=True)
class EmotionStyle:
    """How an emotion sounds, as departures from the voice's calm speech; every field varies linearly.

    Attributes:
        f0_shift_st: raised or lowered pitch, semitones.
        f0_range_st: standard deviation of the pitch accents, semitones.
        f0_slope_st: change of pitch from the first to the last syllable, semitones.
        f0_final_st: further movement on the last syllable, semitones.
        tremor_st: depth of the tremor of 5 to 8 Hz, semitones.
        jitter: relative standard deviation of a glottal cycle's length; its amplitude varies four times as
            much.
        rate_hz: syllables a second.
        level_db: loudness, dB above calm speech.
        accent_db: standard deviation of the syllables' loudness, dB.
        tilt_db: spectral tilt, loss in dB at 3 kHz against a pressed voice.
        breath: aspiration noise against the voiced source, ratio of their root mean squares.
        reach: how far vowels are from the neutral vowel; 1 is clear speech, below is mumbled.
    """

    f0_shift_st: float
    f0_range_st: float
    f0_slope_st: float
    f0_final_st: float
    tremor_st: float
    jitter: float
    rate_hz: float
    level_db: float
    accent_db: float
    tilt_db: float
    breath: float
    reach: float


VOICES: tuple[Voice, ...] = (
    Voice("f1", "female", 205, 1.16),
    Voice("m1", "male", 118, 1.00),
    Voice("f2", "female", 228, 1.20, breath=1.6, tilt_db=1.5, rate=0.94),
    Voice("m2", "male", 98, 0.95, breath=0.8, tilt_db=1.0, rate=0.92, expression=0.85),
    Voice("f3", "female", 186, 1.12, breath=0.7, tilt_db=-1.0, rate=1.06),
    Voice("m3", "male", 134, 1.03, breath=1.4, rate=1.08, expression=1.1),
    Voice("f4", "female", 243, 1.22, breath=1.1, tilt_db=-1.5, rate=1.10, expression=1.1),
    Voice("m4", "male", 108, 0.98, breath=0.6, tilt_db=-1.5, rate=1.02),
    Voice("f5", "female", 196, 1.14, breath=2.0, tilt_db=2.0, rate=0.90, expression=0.8),
    Voice("m5", "male", 145, 1.05, breath=1.0, tilt_db=0.5, rate=1.00, expression=0.9),
    Voice("f6", "female", 216, 1.18, breath=0.9, rate=1.00, expression=0.95),
    Voice("m6", "male", 90, 0.93, breath=1.7, tilt_db=2.0, rate=0.96, expression=0.95),
    Voice("f7", "female", 178, 1.10, breath=1.3, tilt_db=0.5, rate=1.04, expression=1.05),
    Voice("m7", "male", 126, 1.01, breath=0.9, tilt_db=-0.5, rate=1.12, expression=1.0),
)

# Order of the numbers: shift, range, slope, final, tremor, jitter, rate, level, accent, tilt, breath, reach.
STYLES: dict[str, EmotionStyle] = {
    "anger": EmotionStyle(4.5, 2.8, -2.0, -2.5, 0.15, 0.022, 5.7, 10.0, 3.5, 0.0, 0.02, 1.10),
    "fear": EmotionStyle(7.5, 1.6, 0.5, 0.0, 1.10, 0.020, 5.6, 1.0, 2.0, 8.0, 0.08, 0.92),
    "happiness": EmotionStyle(5.0, 3.6, -0.5, 1.0, 0.15, 0.007, 5.0, 4.5, 3.0, 5.0, 0.05, 1.08),
    "neutral": EmotionStyle(0.0, 1.3, -2.5, -1.0, 0.10, 0.008, 4.6, 0.0, 1.5, 7.0, 0.04, 1.00),
    "sadness": EmotionStyle(-1.5, 0.8, -4.0, -2.0, 0.35, 0.013, 3.5, -5.0, 1.2, 13.0, 0.12, 0.85),
    "surprise": EmotionStyle(6.0, 4.0, 3.0, 6.0, 0.10, 0.009, 4.8, 3.0, 2.5, 5.0, 0.05, 1.05),
}

# Standard deviation of each field from one utterance to the next, whatever the emotion.
SPREAD = EmotionStyle(1.0, 0.4, 1.0, 1.0, 0.10, 0.002, 0.4, 1.5, 0.5, 1.2, 0.010, 0.05)


@dataclass(frozen=True)
class Phone:
    """One sound.

    Attributes:
        formants_hz: the first three formants of an adult male; for a consonant, where vowels glide to.
        length: duration against that of a vowel.
        voicing: amplitude of the voiced source.
        noise: amplitude of the fricative noise, or of the burst.
        noise_hz: middle of the noise; the band is an octave wide.
        burst: a stop: the noise comes in the last 15 ms only.
    """

    formants_hz: tuple[float, float, float]
    length: float = 1.0
    voicing: float = 1.0
    noise: float = 0.0
    noise_hz: float = 3000.0
    burst: bool = False


# The six Persian vowels: F1 and F2 within, and their corners near, the means reported for male students of
# Isfahan (F1 255 Hz in /i/ to 767 Hz in /æ/, F2 734 Hz in /u/ to 2244 Hz in /i/;
# https://jrrs.mui.ac.ir/article_16338.html). "a" is /æ/, "A" is /ɑ/.
VOWELS: dict[str, Phone] = {
    "a": Phone((750, 1650, 2480)),
    "A": Phone((620, 1080, 2450), length=1.15),
    "e": Phone((420, 1950, 2600), length=0.9),
    "i": Phone((275, 2220, 3080), length=1.1),
    "o": Phone((440, 860, 2400), length=0.9),
    "u": Phone((310, 760, 2330), length=1.1),
}
NEUTRAL_VOWEL_HZ = (500.0, 1500.0, 2500.0)
HIGHER_FORMANTS_HZ = (3500.0, 4500.0, 5500.0, 6500.0)

CONSONANTS: dict[str, Phone] = {
    "s": Phone((320, 1700, 2600), 0.75, 0.0, 0.16, 5200),
    "S": Phone((320, 1900, 2500), 0.75, 0.0, 0.20, 3000),  # /ʃ/
    "f": Phone((320, 1000, 2300), 0.65, 0.0, 0.06, 4200),
    "x": Phone((400, 1300, 2300), 0.70, 0.0, 0.16, 1500),
    "z": Phone((300, 1700, 2600), 0.60, 0.3, 0.08, 5200),
    "b": Phone((300, 900, 2300), 0.55, 0.08, 0.15, 900, burst=True),
    "d": Phone((300, 1750, 2650), 0.50, 0.08, 0.25, 3500, burst=True),
    "g": Phone((300, 2000, 2300), 0.55, 0.08, 0.25, 1900, burst=True),
    "p": Phone((300, 900, 2300), 0.70, 0.0, 0.20, 900, burst=True),
    "t": Phone((300, 1750, 2650), 0.70, 0.0, 0.35, 3800, burst=True),
    "k": Phone((300, 2000, 2300), 0.70, 0.0, 0.35, 1900, burst=True),
    "m": Phone((280, 1000, 2300), 0.55, 0.35),
    "n": Phone((280, 1600, 2600), 0.55, 0.35),
    "l": Phone((340, 1300, 2700), 0.50, 0.5),
    "r": Phone((420, 1350, 2000), 0.40, 0.5),
}
