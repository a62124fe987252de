"""The answer for a recording depends on the recording alone, and its timeline covers it from end to end."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_support import recogniser
from support import RATE_HZ, voice, write_voice

import ser
from ser.classifier.checkpoint import load_checkpoint
from ser.encoders.encoder import Encoder
from ser.errors import AudioError, CheckpointError, EncoderError, SettingsError
from ser.inference.recogniser import Recogniser
from ser.labels import EMOTIONS
from ser.scoring.calibration import Calibration


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> Recogniser:
    return ser.load(tiny_checkpoint)


def values(predictor: Recogniser, samples: np.ndarray) -> np.ndarray:
    return np.array(list(predictor((RATE_HZ, samples), timeline=False).probabilities.values()))


def test_probabilities_sum_to_one_and_the_emotion_is_the_most_probable(predictor, tmp_path):
    result = predictor(write_voice(tmp_path / "clip.wav", 2.0))
    assert tuple(result.probabilities) == EMOTIONS
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert result.emotion == max(result.probabilities, key=result.probabilities.__getitem__)
    assert result.duration_s == pytest.approx(2.0)
    assert result.file == str(tmp_path / "clip.wav")
    assert set(result.seconds) == {"decode", "find speech", "encode", "classify"}


def test_a_file_and_its_samples_give_the_same_answer(predictor, tmp_path):
    path = write_voice(tmp_path / "clip.wav", 1.5, 22_050, subtype="FLOAT")
    from_file = predictor(path).probabilities
    for samples in (voice(1.5, 22_050), np.stack([voice(1.5, 22_050)] * 2, axis=1)):
        from_samples = predictor((22_050, samples)).probabilities
        assert from_samples == pytest.approx(from_file, abs=1e-5)


def test_the_answer_is_the_mean_over_pieces_of_the_training_length(predictor):
    frames = predictor.encoder([voice(5.0)])[0]
    pieces = [frames[:100], frames[100:200], frames[200:]]
    alone = np.stack([predictor.classify(piece) for piece in pieces])
    expected = np.average(alone, axis=0, weights=[len(piece) for piece in pieces])
    np.testing.assert_allclose(predictor.classify(frames), expected, atol=1e-6)
    assert not np.allclose(alone[0], alone[1], atol=1e-6)


def test_the_temperature_softens_the_probabilities(predictor, tiny_checkpoint):
    checkpoint, classifier = load_checkpoint(tiny_checkpoint)
    hot = replace(checkpoint, calibration=Calibration(temperature=100.0))
    spread = values(recogniser(hot, classifier, predictor.encoder), voice())
    assert np.ptp(spread) < np.ptp(values(predictor, voice()))
    with torch.inference_mode():
        frames = torch.from_numpy(predictor.encoder([voice()])[0])
        logits = classifier(frames, torch.tensor([len(frames)]))
    np.testing.assert_allclose(spread, (logits / 100).softmax(-1)[0], atol=1e-5)


def test_below_the_threshold_the_answer_is_not_confident(predictor, tiny_checkpoint):
    checkpoint, classifier = load_checkpoint(tiny_checkpoint)
    for threshold, confident in ((0.0, True), (1.0, False)):
        strict = replace(checkpoint, calibration=Calibration(threshold=threshold))
        result = recogniser(strict, classifier, predictor.encoder)((RATE_HZ, voice()), timeline=False)
        assert result.confident is confident


# ---- timeline ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.5, 1.9, 2.0, 2.1, 7.3, 35.0])
def test_the_timeline_covers_the_recording_in_windows_of_two_seconds(predictor, seconds):
    result = predictor((RATE_HZ, voice(seconds)))
    timeline = result.timeline
    (start_s, _), (_, end_s) = result.speech[0], result.speech[-1]
    assert 0 <= start_s < 0.2
    assert seconds - 0.5 < end_s <= seconds
    assert (timeline.start_s[0], timeline.end_s[-1]) == pytest.approx((start_s, end_s))
    assert (np.diff(timeline.start_s) > 0).all()
    assert (np.diff(timeline.start_s) <= 0.5 + 1e-9).all()
    assert (timeline.end_s > timeline.start_s).all()
    assert (timeline.end_s - timeline.start_s <= 2.05).all()
    assert timeline.probabilities.shape == (len(timeline.start_s), len(EMOTIONS))
    np.testing.assert_allclose(timeline.probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_window_s_probabilities_do_not_depend_on_the_other_windows(predictor):
    frames = predictor.encoder([voice(6.0)])[0]
    timeline = predictor((RATE_HZ, voice(6.0))).timeline
    for start_s, row in zip(timeline.start_s, timeline.probabilities, strict=True):
        start = round(start_s * 50)
        np.testing.assert_allclose(row, predictor.classify(frames[start : start + 100]), atol=1e-5)


def test_the_timeline_has_a_gap_where_nobody_speaks(predictor):
    parts = [np.zeros(2 * RATE_HZ, np.float32), voice(3.0), np.zeros(4 * RATE_HZ, np.float32), voice(3.0, seed=1)]
    result = predictor((RATE_HZ, np.concatenate(parts)))
    assert result.duration_s == pytest.approx(12)
    assert np.array(result.speech) == pytest.approx(np.array([[2, 5], [9, 12]]), abs=0.4)
    for start, end in zip(result.timeline.start_s, result.timeline.end_s, strict=True):
        assert any(first <= start < end <= last for first, last in result.speech)


def test_an_encoder_that_hears_speech_only_is_not_told_of_the_silence_around_it(tiny_checkpoint, predictor):
    checkpoint, classifier = load_checkpoint(tiny_checkpoint)
    listening = recogniser(checkpoint, classifier, predictor.encoder)
    listening.speech_only = True
    spoken, silence = voice(3.0), np.zeros(2 * RATE_HZ, np.float32)
    expected = listening((RATE_HZ, spoken))
    for before, after, level in ((1, 0, 1.0), (0, 1, 0.1), (1, 1, 0.01)):
        padded = np.concatenate([silence[: before * RATE_HZ], spoken, silence[: after * RATE_HZ]])
        answer = listening((RATE_HZ, (level * padded).astype(np.float32)))
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=0.01)
        np.testing.assert_allclose(answer.timeline.start_s, expected.timeline.start_s + before, atol=0.04)
    moved = np.abs(values(predictor, np.concatenate([silence, spoken])) - values(predictor, spoken)).max()
    assert moved > 0.01  # of what it is told, the encoder makes something


@pytest.mark.parametrize("seconds", [0.1, 4.0])
def test_a_recording_in_which_nobody_speaks_is_refused(predictor, seconds):
    hum = 0.3 * np.sin(np.arange(round(seconds * RATE_HZ)) * 2 * np.pi * 220 / RATE_HZ)
    with pytest.raises(AudioError, match="No speech was found") as refused:
        predictor((RATE_HZ, hum))
    assert refused.value.kind == "no_speech"


def test_windows_can_be_chosen_and_senseless_ones_are_refused(predictor):
    timeline = predictor((RATE_HZ, voice(3.0)), window_s=1.0, hop_s=0.25).timeline
    np.testing.assert_allclose(np.diff(timeline.start_s)[:-1], 0.25, atol=0.011)
    assert predictor((RATE_HZ, voice()), timeline=False).timeline is None
    for options in ({"window_s": 0.1}, {"hop_s": 0.0}, {"window_s": float("nan")}):
        with pytest.raises(SettingsError):
            predictor((RATE_HZ, voice()), **options)


def test_the_result_is_plain_json(predictor):
    content = json.loads(json.dumps(predictor((RATE_HZ, voice(3.0))).to_dict()))
    entries = ("file", "emotion", "confident", "probabilities", "duration_s", "speech", "seconds", "timeline")
    assert tuple(sorted(content)) == tuple(sorted(entries))
    assert set(content["timeline"][0]) == {"start_s", "end_s", "probabilities"}
    assert sum(content["probabilities"].values()) == pytest.approx(1, abs=1e-5)


# ---- use --------------------------------------------------------------------------------------------------


def test_several_threads_get_the_answers_that_one_gets(predictor):
    clips = [voice(0.5 + 0.3 * seed, seed=seed) for seed in range(6)]
    expected = [values(predictor, clip) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda clip: values(predictor, clip), clips * 3))
    np.testing.assert_allclose(np.stack(answers), np.stack(expected * 3), atol=1e-5)


def test_what_cannot_be_used_is_refused_as_file_and_as_samples(predictor, tmp_path):
    with pytest.raises(AudioError, match="not there"):
        predictor(tmp_path / "nothing.wav")
    with pytest.raises(AudioError, match="silent"):
        predictor((RATE_HZ, np.zeros(RATE_HZ)))
    for recording in ((RATE_HZ, voice(2.0)), write_voice(tmp_path / "long.wav", 2.0)):
        with pytest.raises(AudioError) as caught:
            predictor(recording, max_duration_s=1.0)
        assert caught.value.kind == "too_long"


def test_a_model_is_loaded_with_its_own_encoder_only(tiny_checkpoint, tiny_encoder, tmp_path):
    assert ser.load(tiny_checkpoint, tiny_encoder).labels == EMOTIONS
    with pytest.raises(CheckpointError, match="trained on"):
        ser.load(tiny_checkpoint, Encoder.load(tiny_encoder, layer=1))
    with pytest.raises(EncoderError):
        ser.load(tiny_checkpoint, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        ser.load(tmp_path)
