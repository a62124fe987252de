"""The options beyond the paper: off by default, each does what it says, and its effect is measured in pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, recall_score
from test_crossval import ENCODER, SETTINGS, Toy

from ser.crossval import CrossvalSettings, Stopped
from ser.effects import OPTIONS, changed, measure
from ser.errors import SettingsError
from ser.predictions import read_predictions

BRIEF = replace(SETTINGS, training=replace(SETTINGS.training, max_epochs=2))


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path / "corpus")


def effects(toy: Toy, folder: Path, options=("class_weights", "frame_masking"), **more):
    return measure(toy.corpus, BRIEF, options, lambda settings: (toy, ENCODER), folder, **more)


def test_every_option_is_off_by_default_and_changes_the_settings_but_not_the_folds(toy):
    base = CrossvalSettings()
    for option in OPTIONS:
        settings = changed(base, option)
        assert settings != base
        assert settings.folds(toy.corpus) == base.folds(toy.corpus)


def test_an_option_that_is_on_in_the_base_or_unknown_is_refused():
    base = replace(BRIEF, training=replace(BRIEF.training, class_weights=True))
    with pytest.raises(SettingsError, match="already"):
        changed(base, "class_weights")
    with pytest.raises(SettingsError, match="warp"):
        changed(base, "warp")


def test_differences_follow_from_the_written_predictions_of_both_runs(toy, tmp_path):
    content = effects(toy, tmp_path / "out")
    rows = {name: read_predictions(tmp_path / "out" / name / "predictions.csv")
            for name in ("base", "class_weights")}  # fmt: skip
    assert [row["fold"] for row in rows["base"]] == [row["fold"] for row in rows["class_weights"]]
    true = [row["emotion"] for row in rows["base"]]
    answers = [[row["predicted"] for row in rows[name]] for name in ("class_weights", "base")]
    found = content["options"]["class_weights"]["difference"]
    gains = [accuracy_score(true, one) for one in answers]
    assert found["wa"]["value"] == pytest.approx(gains[0] - gains[1])
    gains = [recall_score(true, one, average="macro") for one in answers]
    assert found["uar"]["value"] == pytest.approx(gains[0] - gains[1])
    assert found["uar"]["low"] <= found["uar"]["value"] <= found["uar"]["high"]
    assert json.loads((tmp_path / "out" / "effects.json").read_text()) == content


def test_a_measurement_goes_on_where_it_stopped_and_keeps_what_is_finished(toy, tmp_path):
    whole = effects(toy, tmp_path / "whole")
    heard = []

    def should_stop() -> bool:
        return len(heard) > 7  # within the first option

    with pytest.raises(Stopped):
        effects(toy, tmp_path / "cut", listener=lambda *one: heard.append(one), should_stop=should_stop)
    assert heard[-1][0] == "class_weights"
    finished = (tmp_path / "cut" / "base" / "result.json").read_bytes()
    again = effects(toy, tmp_path / "cut")
    assert again["options"] == whole["options"]
    assert (tmp_path / "cut" / "base" / "result.json").read_bytes() == finished


def test_a_folder_of_another_measurement_is_refused(toy, tmp_path):
    effects(toy, tmp_path / "out", ["class_weights"])
    with pytest.raises(SettingsError, match="other settings"):
        measure(
            toy.corpus, SETTINGS, ["class_weights"], lambda settings: (toy, ENCODER), tmp_path / "out"
        )  # fmt: skip
