"""A voice moves a stranger's frames to where those of the training speakers lie."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_support import TorchRecogniser
from support import RATE_HZ, voice, write_corpus, write_voice

import ser
from ser.classifier.bigru import BiGRUClassifier
from ser.classifier.checkpoint import save_checkpoint
from ser.classifier.settings import VOICE_BUFFERS, ClassifierSettings
from ser.cli import main
from ser.corpora.corpus import read_corpus
from ser.errors import CheckpointError, CorpusError, SettingsError
from ser.experiments.baselines import ListedFrames
from ser.experiments.evaluate import evaluate
from ser.inference.adaptation import Training as Known
from ser.inference.adaptation import Voice
from ser.training.frames import LabelledFrames
from ser.training.settings import TrainingSettings
from ser.training.trainer import Training
from ser.training.voices import Voices

DIM, N_LABELS, NEUTRAL = 6, 3, 1
RNG = np.random.default_rng(40)
SPEAKERS = ("a", "b", "single")
SHIFTS = {"a": 5.0, "b": -5.0, "single": 0.0}
SCALES = {"a": 2.0, "b": 0.5, "single": 1.0}
SETTINGS = ClassifierSettings(8, 4, 1, pooling="attentive", final_dropout=0.3, voices=0.5)


def labelled(per_label: int = 5) -> LabelledFrames:
    """Two speakers with a shift and a scale of their own and every emotion, and one with a single emotion."""
    frames, targets, speakers = [], [], []
    for name in SPEAKERS:
        for label in range(N_LABELS) if name != "single" else [2]:
            for _ in range(per_label):
                one = RNG.standard_normal((20, DIM)) + 2 * (np.arange(DIM) % N_LABELS == label)
                frames.append((SCALES[name] * one + SHIFTS[name]).astype(np.float32))
                targets.append(label)
                speakers.append(name)
    source = ListedFrames(frames)
    return LabelledFrames(source, np.array(targets), N_LABELS, DIM, ["c"] * len(targets), speakers, NEUTRAL)


def test_speakers_are_moved_onto_each_other_but_for_one_with_a_single_emotion():
    data = labelled()
    indices = list(range(len(data.targets)))
    voices = Voices(data, indices, 300)
    frames, lengths = data.features.gather(indices, 300)
    moved = voices.moved(frames, lengths, indices, 0.999999, np.random.default_rng(0))
    who = np.repeat(np.array(data.speakers), lengths)
    for name in ("a", "b"):
        assert moved[who == name].mean(axis=0) == pytest.approx(voices.mean, abs=1e-3)
        assert moved[who == name].std(axis=0) == pytest.approx(voices.deviation, rel=1e-3)
    np.testing.assert_array_equal(moved[who == "single"], frames[who == "single"])
    np.testing.assert_array_equal(voices.moved(frames, lengths, indices, 0.0, RNG), frames)
    part = voices.moved(frames, lengths, indices, 0.5, np.random.default_rng(0))
    differs = (part != frames).any(axis=1)
    changed = [bool(one.any()) for one in np.split(differs, np.cumsum(lengths)[:-1])]
    assert 5 < sum(changed) < 25


def test_only_training_speakers_say_where_voices_lie():
    data = labelled()
    train = [index for index, name in enumerate(data.speakers) if name == "a"]
    voices = Voices(data, train, 300)
    expected = data.features.gather(train, 300)[0]
    assert voices.mean == pytest.approx(expected.mean(axis=0), abs=1e-4)
    assert voices.deviation == pytest.approx(expected.std(axis=0), rel=1e-4)
    neutral = [index for index in train if data.targets[index] == NEUTRAL]
    shift = expected.mean(axis=0) - data.features.gather(neutral, 300)[0].mean(axis=0)
    assert voices.from_neutral == pytest.approx(shift, abs=1e-4)


def test_training_keeps_them_beside_the_weights_and_none_without_voices():
    data = labelled()
    everyone = range(len(data.targets))
    settings = TrainingSettings(optimizer="adam", max_epochs=1)
    trained = Training(data, everyone, [], SETTINGS, settings)
    trained.run_epoch()
    voices = Voices(data, list(everyone), settings.max_frames)
    for name in VOICE_BUFFERS:
        np.testing.assert_array_equal(
            trained.best_model().state_dict()[name], getattr(voices, name.removeprefix("voice_"))
        )
    plain = Training(data, everyone, [], replace(SETTINGS, voices=0.0), settings)
    assert plain.voices is None
    assert not set(VOICE_BUFFERS) & plain.model.state_dict().keys()


def known(shape: tuple[int, ...] = (DIM,)) -> Known:
    return Known("print", np.zeros(shape, np.float32), np.ones(shape, np.float32), np.full(shape, 3, np.float32))


def test_a_well_known_voice_is_moved_onto_the_training_speakers_and_a_little_known_one_less():
    frames = (2 * RNG.standard_normal((50_000, DIM)) + 5).astype(np.float32)
    moved = Voice.of([frames], "print")(frames, known())
    assert moved.mean(axis=0) == pytest.approx(np.zeros(DIM), abs=0.05)
    assert moved.std(axis=0) == pytest.approx(np.ones(DIM), abs=0.05)
    little = Voice.of([frames[:100]], "print")(frames, known())  # 2 s: half of it
    assert little.mean() == pytest.approx(2.5 / np.sqrt(2), abs=0.3)
    neutral = Voice.of([frames], "print", neutral=True)(frames, known())
    assert neutral.mean() == pytest.approx(-3, abs=0.05)
    assert neutral.std(axis=0) == pytest.approx(np.full(DIM, 2), abs=0.05)


def test_a_voice_is_saved_and_loaded_and_a_foreign_one_refused(tmp_path):
    frames = RNG.standard_normal((300, 2, DIM)).astype(np.float32)
    for neutral in (False, True):
        kept = Voice.of([frames, frames], "print", neutral)
        kept.save(tmp_path / "voice")
        loaded = Voice.load(tmp_path / "voice")
        assert (loaded.seconds, loaded.recordings, loaded.neutral) == (12.0, 2, neutral)
        np.testing.assert_array_equal(loaded(frames, known((2, DIM))), kept(frames, known((2, DIM))))
    with pytest.raises(CheckpointError, match="another encoder"):
        loaded(frames, replace(known((2, DIM)), fingerprint="other"))
    (tmp_path / "voice").write_bytes(b"no voice")
    with pytest.raises(CheckpointError, match="holds no voice"):
        Voice.load(tmp_path / "voice")


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint, tiny_encoder):
    return ser.load(tiny_checkpoint, tiny_encoder)


@pytest.fixture
def adaptable(predictor):
    torch.manual_seed(40)
    classifier = BiGRUClassifier(predictor.encoder.dim, len(predictor.labels), replace(SETTINGS, voices=0.5))
    for name, value in zip(VOICE_BUFFERS, (0.1, 0.5, 0.05), strict=True):
        getattr(classifier, name).fill_(value)
    checkpoint = replace(predictor.checkpoint, classifier=classifier.settings)
    return TorchRecogniser(checkpoint, classifier, predictor.encoder)


def test_a_predictor_adapts_and_its_onnx_file_adapts_alike(adaptable, tmp_path):
    recordings = [(RATE_HZ, voice(2.0, seed=seed)) for seed in range(3)]
    clip = (RATE_HZ, voice(2.0, seed=3))
    file = ser.load(adaptable.export(tmp_path / "model.onnx"))
    alone = adaptable(clip).probabilities
    for given in ({"recordings": recordings}, {"neutral": recordings}):
        ours, theirs = (one(clip, voice=one.adapt(**given)).probabilities for one in (adaptable, file))
        assert ours != pytest.approx(alone, abs=1e-3)
        assert theirs == pytest.approx(ours, abs=1e-3)
    assert adaptable(clip).probabilities == alone  # a voice is in the call, not in the model


def test_what_cannot_be_adapted_is_refused(adaptable, predictor):
    clip = (RATE_HZ, voice(2.0))
    for given in ({}, {"recordings": [clip], "neutral": [clip]}):
        with pytest.raises(SettingsError, match="one of the two"):
            adaptable.adapt(**given)
    for call in (lambda: predictor.adapt([clip]), lambda: predictor(clip, voice=adaptable.adapt([clip]))):
        with pytest.raises(SettingsError, match="without voices"):
            call()


@pytest.fixture
def command(adaptable, tiny_encoder, tmp_path, capsys):
    """`command(*words)` answers recordings of two speakers: exit status, probabilities by file, errors."""
    save_checkpoint(tmp_path / "model", adaptable.checkpoint, adaptable.model)
    for speaker in range(2):
        (tmp_path / "clips" / str(speaker)).mkdir(parents=True)
        for number in range(3):
            write_voice(tmp_path / "clips" / str(speaker) / f"{number}.wav", 2.0, seed=60 * speaker + number)
    write_voice(tmp_path / "neutral.wav", 2.0, seed=5)

    def run(*words):
        given = ["--json", "--checkpoint", tmp_path / "model", "--encoder", tiny_encoder, tmp_path / "clips", *words]
        capsys.readouterr()
        status = main(["predict", *map(str, given)])
        out, err = capsys.readouterr()
        return (status, {line["file"]: line["probabilities"] for line in map(json.loads, out.splitlines())}, err)

    return run


def test_the_command_hears_one_voice_or_one_a_folder_or_neutral_recordings(command, adaptable, tmp_path):
    (tmp_path / "clips" / "0" / "tone.wav").write_bytes(b"no recording")
    files = sorted((tmp_path / "clips").rglob("[0-2].wav"))
    expected = {
        (): dict.fromkeys(files),
        ("--one-voice",): dict.fromkeys(files, adaptable.adapt(files)),
        ("--voice-folders",): {file: adaptable.adapt(sorted(file.parent.glob("[0-2].wav"))) for file in files},
        ("--neutral", tmp_path / "neutral.wav"): dict.fromkeys(
            files, adaptable.adapt(neutral=[tmp_path / "neutral.wav"])
        ),
    }
    for words, voices in expected.items():
        status, answers, err = command(*words)
        assert status == 1
        assert "tone.wav" in err
        for file, voice_of_file in voices.items():
            ours = adaptable(file, timeline=False, voice=voice_of_file).probabilities
            assert answers[str(file)] == pytest.approx(ours, abs=1e-4)


def test_an_evaluation_with_voices_scores_only_recordings_that_no_voice_was_known_by(adaptable, tmp_path):
    corpus = read_corpus(write_corpus(tmp_path / "corpus", 3, per_emotion=2))
    for neutral in (False, True):
        result = evaluate(adaptable, corpus, n_heard=2, neutral=neutral)
        content = result.to_dict()["voices"]
        assert len(result.utterances) == 3 * 10
        assert {one.speaker for one in result.utterances} == {"s0", "s1", "s2"}
        assert not (neutral and [one for one in result.utterances if one.emotion == "neutral"])
        alone = [adaptable(one.path, timeline=False).emotion for one in result.utterances]
        right = np.mean([one.emotion == answer for one, answer in zip(result.utterances, alone, strict=True)])
        assert content["without"]["wa"]["value"] == pytest.approx(right)
        assert np.abs(result.probabilities - result.strangers).max() > 0.001
    with pytest.raises(CorpusError, match="0 can be scored"):
        evaluate(adaptable, corpus, n_heard=50)
