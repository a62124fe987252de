"""Options from a file or from an older run, folds from a file, and how much is said."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support import write_corpus

from ser.classifier.settings import ClassifierSettings
from ser.cli import _parser, main
from ser.cli.arguments import crossval_settings
from ser.cli.config import apply_config
from ser.cli.crossval import add_arguments
from ser.corpora.corpus import read_corpus
from ser.corpora.folds_file import folds_to_json, read_folds
from ser.errors import FoldError, SettingsError
from ser.training.settings import CrossvalSettings, TrainingSettings, settings_to_dict


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    apply_config(parser, words)
    return parser.parse_args(words)


def test_a_file_gives_the_defaults_and_the_command_line_comes_first(tmp_path):
    (tmp_path / "a.toml").write_text(
        'corpus = ["one", "two"]\ndropout = 0\nclass-weights = true\noptimizer = "adam"\nseed = 7\n'
    )
    args = parsed("--config", str(tmp_path / "a.toml"), "--seed", "8")
    assert args.corpus == [Path("one"), Path("two")]
    assert (args.dropout, args.class_weights, args.optimizer, args.seed) == (0.0, True, "adam", 8)
    assert parsed("--corpus", "x").dropout == 0.2


def test_a_run_gives_its_settings_and_a_file_comes_before_it(tmp_path):
    settings = CrossvalSettings(training=TrainingSettings(optimizer="adam", seed=3), n_folds=4, seed=3)
    (tmp_path / "run.json").write_text(json.dumps({"settings": asdict(settings)}))
    (tmp_path / "a.json").write_text('{"seed": 9}')
    args = parsed("--corpus", "x", "--like", str(tmp_path), "--config", str(tmp_path / "a.json"))
    assert (args.optimizer, args.folds, args.seed, args.ensemble) == ("adam", 4, 9, False)


def test_less_of_each_recording_is_asked_for_in_one_option_and_taken_over_from_a_run(tmp_path):
    args = parsed("--corpus", "x", "--reduce", "average=2", "prune=128")
    settings = crossval_settings(args)
    assert settings.classifier == ClassifierSettings(averaged_frames=2, components=128, components_by="validation")
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings_to_dict(settings)}))
    assert crossval_settings(parsed("--corpus", "x", "--like", str(tmp_path))) == settings
    twice = parsed("--corpus", "x", "--reduce", "average=2", "--reduce", "prune=128", "--like", str(tmp_path))
    assert crossval_settings(twice) == settings
    (tmp_path / "a.toml").write_text('reduce = ["average=4"]')
    settings = crossval_settings(parsed("--corpus", "x", "--config", str(tmp_path / "a.toml")))
    assert settings.classifier == ClassifierSettings(averaged_frames=4)


@pytest.mark.parametrize("words", [["pca=8", "prune=8"], ["average=0"], ["average"], ["blur=2"], ["pca=x"]])
def test_a_reduction_that_makes_no_sense_is_bad_usage(words, tmp_path, capsys):
    try:
        code = main(["crossval", "--corpus", str(tmp_path), "--reduce", *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert "--reduce" in capsys.readouterr().err


def test_a_run_whose_folds_a_command_cannot_have_is_not_taken_over_in_silence(tmp_path, capsys):
    settings = asdict(CrossvalSettings()) | {"split": "loso"}
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings}))
    assert main(["tune", "--study", "x", "--corpus", "y", "--like", str(tmp_path)]) == 2
    assert "has --split loso" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("droput = 0.1", "no option droput"), ("dropout = 'much'", "dropout cannot be"), ("[", "cannot be read"),
        ("optimizer = 'best'", "optimizer is one of"), ("class_weights = 1", "true or false"),
        ("help = true", "no option"), ("averaged_frames = 2", "Give reduce a list"), ("cache = ''", "cache cannot be"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused_with_its_name_or_option(tmp_path, capsys, text, words):
    (tmp_path / "a.toml").write_text(text)
    assert main(["crossval", "--corpus", "x", "--config", str(tmp_path / "a.toml")]) == 2
    assert words in capsys.readouterr().err
    assert main(["crossval", "--corpus", "x", "--like", str(tmp_path / "nowhere")]) == 2


def test_folds_that_were_written_are_those_that_are_read(tmp_path):
    corpus = read_corpus(write_corpus(tmp_path / "corpus", 6))
    settings = CrossvalSettings(n_folds=2)
    folds = settings.folds(corpus)
    (tmp_path / "folds.json").write_text(folds_to_json(folds, corpus))
    listed = replace(settings, n_folds=3, folds_file=str(tmp_path / "folds.json"))
    assert listed.folds(corpus) == folds
    assert "folds of a file" in listed.protocol(2)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda rows: rows[:1], "are in no test part"),
        (lambda rows: [rows[0], {**rows[1], "train": rows[1]["train"] + rows[1]["test"]}], "a speaker in two"),
        (lambda rows: [rows[0], {**rows[1], "validation": []}], "an empty part"),
        (lambda rows: [*rows, rows[0]], "in several"),
        (lambda rows: {"folds": rows}, "holds no folds"),
    ],
)
def test_folds_of_a_file_that_leak_or_miss_somebody_are_refused(tmp_path, damage, words):
    corpus = read_corpus(write_corpus(tmp_path / "corpus", 6))
    rows = json.loads(folds_to_json(CrossvalSettings(n_folds=2).folds(corpus), corpus))
    (tmp_path / "folds.json").write_text(json.dumps(damage(rows)))
    with pytest.raises(FoldError, match=words):
        read_folds(tmp_path / "folds.json", corpus)


def test_settings_do_not_name_a_split_that_only_a_file_is():
    with pytest.raises(SettingsError, match="split must be one of"):
        CrossvalSettings(split="file")


@pytest.mark.parametrize("command", ["crossval", "train", "tune", "ablate", "baselines"])
def test_every_command_that_trains_takes_folds_of_a_file(command, tmp_path):
    words = [command, "--corpus", "x", "--folds-file", str(tmp_path / "a.json")]
    words += {"train": ["--out", "y"], "tune": ["--study", "z"]}.get(command, [])
    assert crossval_settings(_parser(words).parse_args(words)).folds_file == str((tmp_path / "a.json").resolve())
