"""The options beyond the paper: off by default, each does what it says, and its effect is measured in pairs."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from support import voice, write_corpus, write_voice
from training_support import EMOTIONS as EMOTIONS_OF_TOY
from training_support import ENCODER, SETTINGS, Toy

from ser.audio.augment import Augmentation
from ser.audio.load import prepare
from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings
from ser.classifier.checkpoint import Checkpoint, EncoderReference, load_checkpoint, save_checkpoint
from ser.classifier.ensemble import Ensemble
from ser.cli import main
from ser.cli.arguments import reduce_words, reduced_settings
from ser.corpora.corpus import Corpus, Utterance
from ser.encoders.encoder import Encoder
from ser.errors import CheckpointError, EncoderError, FoldError, SettingsError, Stopped
from ser.experiments.ablation import OPTIONS, Ablation, changed
from ser.features.extract import FeatureCache, extract, with_copies
from ser.inference.load import load
from ser.labels import EMOTIONS
from ser.scoring.predictions import read_predictions
from ser.training.crossval import Crossval
from ser.training.frames import LabelledFrames
from ser.training.settings import CrossvalSettings, TrainingSettings, settings_to_dict
from ser.training.trainer import Training

BRIEF = replace(SETTINGS, training=replace(SETTINGS.training, max_epochs=2))


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path / "corpus")


def ablate(toy: Toy, folder: Path, options=("class-weights", "frame-masking"), base=BRIEF, **more):
    return Ablation(toy.corpus, base, lambda settings: (toy, ENCODER), folder, **more).run(options)


def test_every_option_is_off_by_default_named_as_its_flag_and_changes_no_folds(toy, capsys):
    with pytest.raises(SystemExit):
        main(["crossval", "--help"])
    flags, base = capsys.readouterr().out, CrossvalSettings()
    for option in OPTIONS:
        settings = changed(base, option, 3)
        assert settings != base
        assert settings.folds(toy.corpus) == base.folds(toy.corpus)
        if "=" in option:  # a word of --reduce
            assert settings.classifier == replace(base.classifier, **reduced_settings([option]))
            assert reduce_words(asdict(settings.classifier)) == [option]
        else:
            assert f"--{option}" in flags
    with pytest.raises(SettingsError, match="already"):
        changed(changed(base, "class-weights", 3), "class-weights", 3)
    with pytest.raises(SettingsError, match="warp"):
        changed(base, "warp", 3)


def test_contributions_follow_from_the_written_predictions_of_both_runs(toy, tmp_path):
    content = ablate(toy, tmp_path)
    runs = [read_predictions(tmp_path / name / "predictions.csv") for name in ("class-weights", "base")]
    assert [row["fold"] for row in runs[0]] == [row["fold"] for row in runs[1]]
    true = [row["emotion"] for row in runs[0]]
    found = content["options"]["class-weights"]["contribution"]
    for name, measure in (("wa", accuracy_score), ("uar", balanced_accuracy_score)):
        scores = [measure(true, [row["predicted"] for row in rows]) for rows in runs]
        assert found[name]["value"] == pytest.approx(scores[0] - scores[1])
    assert found["uar"]["low"] <= found["uar"]["value"] <= found["uar"]["high"]
    assert json.loads((tmp_path / "ablation.json").read_text()) == content
    assert content["options"]["frame-masking"]["weights"] == content["base"]["weights"]
    dim, units, n_labels = ENCODER.dim, BRIEF.classifier.base_units, len(toy.corpus.emotions)  # one layer
    in_gru = 2 * 3 * units * (dim + units + 2)
    assert content["base"]["weights"] == 2 * dim + in_gru + (2 * units + 1) * n_labels
    with pytest.raises(SettingsError, match="other settings"):
        ablate(toy, tmp_path, ["class-weights"], SETTINGS)


@pytest.mark.slow
def test_an_ablation_resumes_where_it_stopped_and_keeps_what_is_finished(toy, tmp_path):
    whole = ablate(toy, tmp_path / "whole")
    heard = []
    listening = {"listener": lambda *one: heard.append(one), "should_stop": lambda: len(heard) > 7}
    with pytest.raises(Stopped):  # within the first option
        ablate(toy, tmp_path / "cut", **listening)
    assert heard[-1][0] == "class-weights"
    finished = (tmp_path / "cut" / "base" / "result.json").read_bytes()
    assert ablate(toy, tmp_path / "cut")["options"] == whole["options"]
    assert (tmp_path / "cut" / "base" / "result.json").read_bytes() == finished


def test_stacked_frames_are_the_frames_of_each_layer_and_have_another_fingerprint(tiny_encoder):
    samples, encoder = voice(0.5), Encoder.load(tiny_encoder)
    (stacked,) = encoder.stacked(3)([samples])
    for layer in range(3):
        (alone,) = Encoder.load(tiny_encoder, layer)([samples])
        np.testing.assert_allclose(stacked[:, layer], alone, rtol=1e-4, atol=1e-5)
    assert len({encoder.stacked(number).fingerprint for number in (0, 2, 3)}) == 3
    assert encoder.stacked(3).stacked(0).fingerprint == encoder.fingerprint
    with pytest.raises(EncoderError, match="3 layers up to layer 2"):
        encoder.stacked(4)


def test_the_layers_weights_are_learnt_and_start_alike():
    settings = ClassifierSettings(3, 2, 2, dropout=0.0, weighted_layers=3)
    model = BiGRUClassifier(4, 3, settings)
    frames, lengths = torch.randn(7, 3, 4), torch.tensor([3, 4])
    plain = BiGRUClassifier(4, 3, replace(settings, weighted_layers=0))
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key != "layer_weights"})
    torch.testing.assert_close(model(frames, lengths), plain(frames.mean(dim=1), lengths))
    torch.nn.functional.cross_entropy(model(frames, lengths), torch.tensor([0, 1])).backward()
    assert model.layer_weights.grad.abs().sum() > 0


def checkpoint_of(encoder: Encoder, settings: ClassifierSettings, members: int = 1) -> Checkpoint:
    reference = EncoderReference(encoder.source, encoder.layer, encoder.fingerprint, encoder.dim)
    return Checkpoint(labels=EMOTIONS, classifier=settings, encoder=reference, members=members)


def test_a_model_of_several_layers_comes_back_from_its_checkpoint_and_answers(tiny_encoder, tmp_path):
    encoder, settings = Encoder.load(tiny_encoder).stacked(3), ClassifierSettings(4, 4, 1, weighted_layers=3)
    model = BiGRUClassifier(encoder.dim, len(EMOTIONS), settings).eval()
    save_checkpoint(tmp_path, checkpoint_of(encoder, settings), model)
    prediction = load(tmp_path)((16_000, voice(0.5)))
    (frames,) = encoder([prepare(voice(0.5), 16_000)])
    with torch.inference_mode():
        logits = model(torch.from_numpy(frames), torch.tensor([len(frames)]))
    expected = logits.softmax(dim=-1)[0].tolist()
    assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-6)
    assert load(tmp_path, Encoder.load(tiny_encoder)).encoder.n_stacked == 3


def test_a_checkpoint_from_before_the_option_still_loads(tiny_checkpoint, tmp_path):
    path = shutil.copytree(tiny_checkpoint, tmp_path / "old") / "model.json"
    content = json.loads(path.read_text())
    del content["classifier"]["weighted_layers"]
    path.write_text(json.dumps(content))
    assert load_checkpoint(path.parent)[0].classifier.weighted_layers == 0
    del content["classifier"]["dropout"]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="dropout"):
        load_checkpoint(path.parent)


def test_options_that_are_off_leave_the_identity_of_runs_and_studies_as_it_was():
    content = settings_to_dict(CrossvalSettings())
    assert "weighted_layers" not in content["classifier"]
    assert not {"augmented_copies", "balance"} & set(content["training"])
    assert settings_to_dict(TrainingSettings(augmented_copies=1))["augmented_copies"] == 1


def test_a_copy_is_another_sound_and_always_the_same_whatever_else_is_drawn():
    samples, key = voice(1.0), 64 * "a"
    first = Augmentation(1)(samples, key)
    np.random.seed(7)
    np.testing.assert_array_equal(first, Augmentation(1)(samples, key))
    expected = np.random.RandomState(7).randint(1 << 30)
    assert np.random.randint(1 << 30) == expected  # the draws of others are not disturbed
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1
    lengths = {Augmentation(copy)(samples, key).size for copy in range(1, 25)}
    assert len(lengths) > 12
    assert min(lengths) < samples.size < max(lengths)
    shortest = [Augmentation(copy)(samples[:1600], key).size for copy in range(1, 9)]
    assert min(shortest) >= 1600  # what an encoder takes


def test_copies_made_by_several_threads_are_those_of_one():
    samples, keys = voice(0.5), [f"{number:064x}" for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda key: Augmentation(1)(samples, key), keys))
    for key, found in zip(keys, together, strict=True):
        np.testing.assert_array_equal(found, Augmentation(1)(samples, key))


def test_without_its_library_augmentation_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    with pytest.raises(SettingsError, match=r"pip install 'persian-ser\[augment\]'"):
        Augmentation(1)(voice(1.0), 64 * "a")


def test_copies_are_kept_apart_from_the_clips_and_follow_them(tiny_encoder, tmp_path):
    paths = [write_voice(tmp_path / f"{seed}.wav", 0.4, seed=seed) for seed in range(2)]
    corpus = Corpus("two", tmp_path, tuple(Utterance(path, path.stem, "anger") for path in paths))
    encoder, cache = Encoder.load(tiny_encoder), FeatureCache(tmp_path / "cache")
    features = extract(corpus, encoder, cache)
    both = with_copies(corpus, features, encoder, 1, cache)
    assert len(both) == 4
    np.testing.assert_array_equal(both[1], features[1])
    assert both.lengths[2] != features.lengths[0]
    assert with_copies(corpus, features, encoder, 1, cache).n_computed == features.n_computed  # found again
    assert extract(corpus, encoder, cache).n_computed == 0


def test_copies_are_trained_on_and_never_validated_or_tested(toy):
    settings = replace(BRIEF.training, augmented_copies=2, max_epochs=1)
    toy.frames = toy.frames * 3
    train, rest = range(80), range(80, 120)
    one = Training(LabelledFrames.of(toy.corpus, toy, 4), train, rest, BRIEF.classifier, settings)
    one.run_epoch()
    one.logits(rest)
    trained = {index for index in toy.gathered if index % 120 < 80}
    assert trained == {index + 120 * copy for copy in range(3) for index in train}
    assert set(toy.gathered) - trained == set(rest)


def test_an_ensemble_answers_with_the_mean_of_its_members_probabilities(toy, tmp_path):
    run = Crossval(toy.corpus, toy, ENCODER, replace(BRIEF, ensemble=True), tmp_path / "run")
    run.run()
    checkpoint, model = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert (checkpoint.members, checkpoint.calibration.temperature) == (3, 1.0)
    assert "one by one" in checkpoint.scores["conditions"]
    assert checkpoint.calibration.precision is not None
    packed = tuple(map(torch.from_numpy, toy.gather(range(7), 300)))
    with torch.inference_mode():
        found = model(*packed).softmax(dim=-1)
        each = [
            (training.best_model()(*packed) / temperature).softmax(dim=-1)
            for training, temperature in zip(run.lockstep.trainings, model.temperatures.tolist(), strict=True)
        ]
    torch.testing.assert_close(found, torch.stack(each).mean(dim=0))


def test_an_ensemble_answers_through_the_predictor_and_a_wrong_number_of_members_is_refused(tiny_encoder, tmp_path):
    encoder, settings = Encoder.load(tiny_encoder), ClassifierSettings(4, 4, 1)
    members = [BiGRUClassifier(encoder.dim, len(EMOTIONS), settings) for _ in range(2)]
    save_checkpoint(tmp_path, checkpoint_of(encoder, settings, 2), Ensemble.of(members, [1.0, 2.0]))
    assert sum(load(tmp_path)((16_000, voice(0.5))).probabilities.values()) == pytest.approx(1)
    path = tmp_path / "model.json"
    for wrong in (3, 0, 10**9):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"members": wrong}))
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path)


def test_the_effect_of_an_ensemble_is_measured_on_speakers_new_to_all_members(toy, tmp_path):
    base = replace(BRIEF, n_folds=2, training=replace(BRIEF.training, max_epochs=1))
    content = ablate(toy, tmp_path, ["ensemble"], base)
    assert "wa" in content["options"]["ensemble"]["contribution"]
    speaker_of = [utterance.speaker for utterance in toy.corpus.utterances]
    for fold in Crossval(toy.corpus, toy, ENCODER, base, tmp_path / "base").folds:
        inner = [i for one in base.folds(toy.corpus, fold) for i in (*one.train, *one.validation)]
        assert not {speaker_of[index] for index in inner} & {speaker_of[index] for index in fold.test}
    toy.gathered.clear()
    assert ablate(toy, tmp_path, ["ensemble"], base)["options"] == content["options"]
    assert not toy.gathered  # nothing was trained or tested again


def test_an_option_that_the_corpus_is_too_small_for_is_named_and_the_others_are_measured(toy, tmp_path, monkeypatch):
    def too_few(settings, corpus, outer=None):
        if outer:
            raise FoldError("Too few speakers.")
        return whole(settings, corpus)

    whole = CrossvalSettings.folds
    monkeypatch.setattr(CrossvalSettings, "folds", too_few)
    content = ablate(toy, tmp_path, ["class-weights", "ensemble"])  # the refused one last, as by default
    assert json.loads((tmp_path / "ablation.json").read_text()) == content
    assert content["options"]["ensemble"]["refused"] == "Too few speakers."
    assert "contribution" in content["options"]["class-weights"]


def small_corpus(folder: Path, encoder: Path, *more: str) -> list[str]:
    """24 recordings of 6 speakers and a table; the words that name them and settings that are soon done."""
    folder.mkdir()
    rows = ["path,speaker,emotion", *more]
    for number in range(24):
        write_voice(folder / f"{number}.wav", 0.3, seed=number)
        rows.append(f"{number}.wav,S{number % 6},{EMOTIONS_OF_TOY[number // 6 % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    words = ["--corpus", str(folder), "--cache", str(folder.parent / "cache"), "--encoder", str(encoder)]
    words += ["--folds", "2", "--validation-share", "0.2", "--max-epochs", "1", "--base-units", "4"]
    return [*words, "--gru-layers", "1", "--out", str(folder.parent / "out")]


def test_what_the_rules_drop_is_left_out_named_and_recorded(tiny_encoder, tmp_path, capsys):
    folder = tmp_path / "corpus"
    twice = f"twice.wav,S0,{EMOTIONS_OF_TOY[0]}"
    words = small_corpus(folder, tiny_encoder, "hush.wav,S0,anger", twice)
    soundfile.write(folder / "hush.wav", np.zeros(8000), 16_000)
    shutil.copy(folder / "0.wav", folder / "twice.wav")
    assert main(["crossval", *words, "--no-final"]) == 0
    result, told_at_once = json.loads((tmp_path / "out" / "result.json").read_text()), capsys.readouterr().err
    reasons = {one["file"]: one["reason"].split(":")[0] for one in result["left_out"]}
    assert reasons == {"hush.wav": "silent", "twice.wav": "duplicate"}
    assert all(f"{file}: {reason}" in told_at_once for file, reason in reasons.items())
    assert result["corpus"]["n_utterances"] == 24


@pytest.mark.slow
def test_the_command_measures_options_that_need_other_features(tiny_encoder, tmp_path, capsys):
    names = ["weighted-layers", "augmented-copies"]
    assert main(["ablate", *small_corpus(tmp_path / "corpus", tiny_encoder), "--options", *names]) == 0
    assert list(json.loads((tmp_path / "out" / "ablation.json").read_text())["options"]) == names
    settings = json.loads((tmp_path / "out" / names[0] / "run.json").read_text())["settings"]
    assert settings["classifier"]["weighted_layers"] == 3
    printed = capsys.readouterr().out
    assert names[0] in printed
    assert "an interval that includes 0" in printed.lower()


def test_how_far_a_training_is_counts_folds_that_stopped_as_done(tiny_encoder, tmp_path, monkeypatch):
    folder, told = write_corpus(tmp_path / "corpus", 6), tmp_path / "progress.json"
    monkeypatch.setenv("SER_PROGRESS", str(told))
    words = ["crossval", "--corpus", folder, "--encoder", tiny_encoder, "--cache", tmp_path / "cache", "--no-check"]
    settings = "--folds 2 --base-units 4 --gru-layers 1 --max-epochs 40 --patience 1 --monitor loss --no-final"
    assert main([*map(str, words), *settings.split(), "--out", str(tmp_path / "run")]) == 0
    epochs = [len(fold["epochs"]) for fold in json.loads((tmp_path / "run" / "result.json").read_text())["folds"]]
    assert min(epochs) < 40
    stage = json.loads(told.read_text())
    assert (stage["stage"], stage["done"], stage["total"]) == ("training", 80, 80)
