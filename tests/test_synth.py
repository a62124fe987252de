"""The synthesiser: what is asked for is what is heard, and the demonstration corpus is what it says."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser.audio import SAMPLE_RATE_HZ, load_audio
from ser.cli import main
from ser.errors import CorpusError, SettingsError
from ser.labels import EMOTIONS
from ser.source_filter import STEP_SAMPLES, Score, formant_filter
from ser.synth import (
    score_of,
    synthesise,
    write_demo_corpus,
    write_examples,
)
from ser.voices import STYLES, VOICES, VOWELS

ASSETS = Path(__file__).parent.parent / "assets"


def autocorrelation_f0_hz(window: np.ndarray, low_hz: float = 50, high_hz: float = 600) -> float:
    """Pitch by autocorrelation, an independent look: the first lag that is nearly as good as the best."""
    taper = np.hanning(len(window))
    shape = np.correlate(taper, taper, "full")[len(window) - 1 :]
    tapered = (window - window.mean()) * taper
    likeness = np.correlate(tapered, tapered, "full")[len(window) - 1 :] / np.maximum(shape, 1e-3 * shape[0])
    first, last = int(SAMPLE_RATE_HZ / high_hz), min(int(SAMPLE_RATE_HZ / low_hz), int(0.6 * len(window)))
    lags = np.arange(first, last)
    peaks = lags[(likeness[lags] >= likeness[lags - 1]) & (likeness[lags] > likeness[lags + 1])]
    if not len(peaks):
        return float("nan")
    good = peaks[likeness[peaks] >= 0.85 * likeness[peaks].max()]
    return SAMPLE_RATE_HZ / float(good[0])


def f0_asked_and_heard(samples: np.ndarray, score: Score) -> tuple[np.ndarray, np.ndarray]:
    asked, heard = [], []
    for step in range(8, len(score.f0_hz) - 9, 2):
        half = round(1.5 * SAMPLE_RATE_HZ / score.f0_hz[step])
        middle = step * STEP_SAMPLES
        if score.voicing[step - 8 : step + 9].min() > 0.5 and half <= middle < len(samples) - half:
            asked.append(score.f0_hz[step])
            heard.append(autocorrelation_f0_hz(samples[middle - half : middle + half]))
    return np.array(asked), np.array(heard)


def test_the_same_arguments_give_the_same_samples_and_another_seed_gives_others():
    first = synthesise(VOICES[0], "fear", 7, 1.0)
    assert first.dtype == np.float32
    assert first.shape == (SAMPLE_RATE_HZ,)
    np.testing.assert_array_equal(first, synthesise(VOICES[0], "fear", 7, 1.0))
    assert not np.array_equal(first, synthesise(VOICES[0], "fear", 8, 1.0))


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_the_pitch_heard_is_the_pitch_asked_for(emotion):
    relative = []
    for voice in VOICES[:6]:
        asked, heard = f0_asked_and_heard(synthesise(voice, emotion, 3), score_of(voice, emotion, 3))
        relative.append(heard / asked)
    ratio = np.concatenate(relative)
    assert len(ratio) > 50
    assert abs(np.nanmedian(ratio) - 1) < 0.02
    assert np.mean(np.abs(ratio - 1) < 0.1) > 0.8


@pytest.mark.parametrize("vowel", VOWELS)
def test_resonances_are_where_the_vowel_has_its_formants(vowel):
    steps, calm = 100, VOWELS[vowel].formants_hz
    click = np.zeros(steps * STEP_SAMPLES)
    click[len(click) // 2] = 1.0
    response = formant_filter(click, np.tile(np.array(calm), (steps + 1, 1)), replace(VOICES[1], tract=1.0))
    spectrum = np.abs(np.fft.rfft(response))
    hz = np.fft.rfftfreq(len(response), 1 / SAMPLE_RATE_HZ)
    for formant_hz in calm:
        near = np.abs(hz - formant_hz) < 90
        edges = spectrum[near][[0, -1]]
        assert spectrum[near].max() > 1.2 * edges.min(), f"{vowel}: no peak near {formant_hz} Hz"


def test_emotions_differ_as_their_styles_say():
    def mean(emotion, name):
        return np.mean([getattr(score_of(v, emotion, s, 1.0).style, name) for v in VOICES for s in range(4)])

    assert mean("anger", "level_db") > mean("neutral", "level_db") + 4 > mean("sadness", "level_db") + 6
    assert mean("fear", "f0_shift_st") > mean("neutral", "f0_shift_st") + 4
    assert mean("sadness", "rate_hz") < mean("neutral", "rate_hz") < mean("anger", "rate_hz")
    assert mean("surprise", "f0_final_st") > 2 > mean("neutral", "f0_final_st")


def test_emotions_overlap_but_can_be_told_apart_in_a_voice_never_heard():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    spoken = [(voice, emotion, seed) for voice in VOICES[:8] for emotion in EMOTIONS for seed in range(2)]
    features = np.stack([coarse_spectrum(synthesise(*one, duration_s=1.5)) for one in spoken])
    emotions = np.array([emotion for _, emotion, _ in spoken])
    speakers = [voice.name for voice, _, _ in spoken]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    predicted = cross_val_predict(model, features, emotions, groups=speakers, cv=LeaveOneGroupOut())
    assert 0.4 < np.mean(predicted == emotions) < 0.95  # chance is 0.17


def coarse_spectrum(samples: np.ndarray) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160] * np.hanning(400)
    power = np.abs(np.fft.rfft(frames, 512)) ** 2
    edges = np.unique(np.geomspace(3, 256, 18).astype(int))
    bands = np.log(np.stack([power[:, a:b].sum(axis=1) for a, b in pairwise(edges)]) + 1e-8)
    return np.concatenate([bands.mean(axis=1), bands.std(axis=1), np.diff(bands).std(axis=1)])


def test_there_are_enough_voices_of_both_genders_with_names_of_their_own():
    assert sum(voice.gender == "female" for voice in VOICES) >= 6
    assert sum(voice.gender == "male" for voice in VOICES) >= 6
    assert len({voice.name for voice in VOICES}) == len(VOICES)
    assert set(STYLES) == set(EMOTIONS)


def test_a_corpus_has_every_voice_and_emotion_and_readable_audio(tmp_path):
    metadata = write_demo_corpus(tmp_path / "demo", n_per_emotion=2, voices=VOICES[:3])
    with metadata.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "speaker", "gender", "emotion"]
    assert len(rows) == len({row["path"] for row in rows}) == 3 * len(EMOTIONS) * 2
    assert {(row["speaker"], row["gender"]) for row in rows} == {(v.name, v.gender) for v in VOICES[:3]}
    for row in rows:
        info = soundfile.info(metadata.parent / row["path"])
        assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE_HZ, 1, "PCM_16")
        assert 1.2 <= info.duration <= 2.5
    assert load_audio(metadata.parent / rows[0]["path"]).size


def test_two_corpora_of_one_seed_are_equal_byte_for_byte(tmp_path):
    for name in ("a", "b"):
        write_demo_corpus(tmp_path / name, n_per_emotion=1, voices=VOICES[:1], seed=5)
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize(
    ("emotion", "duration_s", "said"),
    [
        ("boredom", 1.0, "boredom"),
        ("fear", 0.1, "0.1 s"),
        ("fear", 1e6, "1000000.0 s"),
        ("fear", float("nan"), "nan s"),
    ],
)
def test_what_cannot_be_spoken_is_refused_with_the_value_given(emotion, duration_s, said):
    with pytest.raises(SettingsError, match=said):
        synthesise(VOICES[0], emotion, 0, duration_s)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CorpusError, match="file"):
        write_demo_corpus(tmp_path / "file" / "demo", n_per_emotion=1, voices=VOICES[:1])
    with pytest.raises(CorpusError, match="file"):
        write_examples(tmp_path / "file")


def test_the_command_writes_a_corpus_and_refuses_a_wrong_number_of_voices(tmp_path, capsys):
    assert main(["synth", "--to", str(tmp_path), "--per-emotion", "1", "--voices", "2"]) == 0
    assert len(list(tmp_path.glob("*.wav"))) == 2 * len(EMOTIONS)
    assert "says nothing about human speech" in capsys.readouterr().out
    assert main(["synth", "--to", str(tmp_path), "--voices", "99"]) == 2
    assert main(["synth", "--to", str(tmp_path), "--per-emotion", "0"]) == 2
    assert main(["synth", "--to", str(tmp_path), "--seed", "-1"]) == 2


def test_the_page_s_examples_are_what_the_synthesiser_makes(tmp_path):
    made = write_examples(tmp_path)
    assert {path.stem for path in made} == {f"example_{emotion}" for emotion in EMOTIONS}
    for path in made:
        shipped = ASSETS / path.name
        assert shipped.stat().st_size < 120_000
        np.testing.assert_allclose(load_audio(shipped), load_audio(path), atol=1e-3)
