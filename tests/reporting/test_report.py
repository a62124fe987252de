"""The report shows what the result says, and the predictions alone give the result back."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser_support import CHROMIUM, chromium
from training_support import EMOTIONS as LABELS
from training_support import ENCODER, SETTINGS, Toy

from ser.corpora.corpus import Utterance
from ser.errors import JobError
from ser.experiments.evaluate import Evaluation
from ser.labels import EMOTIONS
from ser.reporting.crossval_report import write_report
from ser.reporting.evaluation_report import write_evaluation_report
from ser.scoring.metrics import score
from ser.scoring.predictions import arrays, confusion_of, read_predictions
from ser.training.crossval import Crossval

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Collects the tags, words and attributes of a page and checks that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words += f" {data}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a cross-validation in five folds leaves."""
    toy, folder = Toy(tmp_path_factory.mktemp("corpus")), tmp_path_factory.mktemp("run")
    Crossval(toy.corpus, toy, ENCODER, replace(SETTINGS, n_folds=5), folder).run(final=False)
    return folder


@pytest.fixture
def run(folder):
    return json.loads((folder / "result.json").read_text()), read_predictions(folder / "predictions.csv")


def page_of(result, predictions, folder) -> str:
    return write_report(result, predictions, folder / "report.html").read_text(encoding="utf-8")


def close(ours, theirs) -> bool:
    """Equal but for the rounding of the probabilities in the file."""
    if isinstance(theirs, dict):
        return set(ours) == set(theirs) and all(close(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    return ours == (pytest.approx(theirs, abs=2e-6) if isinstance(theirs, float) else theirs)


@pytest.fixture(scope="module")
def page(folder):
    result = json.loads((folder / "result.json").read_text())
    return page_of(result, read_predictions(folder / "predictions.csv"), folder)


def test_the_predictions_alone_give_every_score_back(run):
    result, rows = run
    true, _, probabilities = arrays(rows, result["labels"])
    again = score(true, probabilities, [row["speaker"] for row in rows], result["labels"])
    assert close(again.to_dict(), result["pooled"])
    row = next(row for row in rows if row["predicted"] == "sadness")
    row.update(dict.fromkeys(LABELS, "0.333333"))  # the written answer counts where rounding made a tie
    assert confusion_of(rows, LABELS) == result["pooled_confusion"]


def test_a_report_of_other_predictions_is_refused(run, tmp_path):
    result, predictions = run
    with pytest.raises(JobError, match="119 rows give another confusion matrix"):
        write_report(result, predictions[1:], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
    with pytest.raises(JobError, match="'boredom'"):
        confusion_of(predictions, [*LABELS, "boredom"])
    for lines, words in (
        (["file,speaker", "a,b"], "lacks the columns fold, emotion, predicted"),
        (["file,speaker,fold,emotion,predicted"], "lacks any row"),
    ):
        (tmp_path / "predictions.csv").write_text("\n".join(lines) + "\n")
        with pytest.raises(JobError, match=words):
            read_predictions(tmp_path / "predictions.csv")


def test_the_page_is_well_formed_and_says_what_was_measured_how(page, run):
    read, (result, _) = Page(page), run
    assert not read.open
    assert page.startswith("<!DOCTYPE html>")
    assert read.words.count("Cross-validation on toy") == 2
    n_validate = len({file.split("_")[0] for fold in result["folds"] for file in fold["validation"]})
    for words in ("label-stratified 5-fold", "shipped", "settings.training.batch_size", result["versions"]["torch"],
                  f"Validated by {n_validate} speakers, the most used in 1 fold."):  # fmt: skip
        assert words in read.words
    assert [tag for tag, _ in read.tags].count("h1") == 1
    for name in ("wa", "uar", "macro_f1", "ece"):
        entry = result["pooled"][name]
        assert f"{entry['value']:.1%}" in read.words
        assert f"{entry['low']:.1%} to {entry['high']:.1%}" in read.words


def test_the_page_loads_nothing_from_elsewhere(page):
    tags = Page(page).tags
    assert not [attrs for _, attrs in tags if "src" in attrs or "href" in attrs]
    policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    [packed] = re.findall(r'<script id="plotly" type="application/gzip">([^<]+)</script>', page)
    assert b"plotly.js v" in gzip.decompress(base64.b64decode(packed))[:500]
    assert len(page.encode()) < 2_300_000  # half of plotly.js alone


@pytest.mark.browser
def test_every_chart_is_drawn_without_a_network(page, folder):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not on the PATH")
    complaints: list[str] = []
    with chromium("--no-sandbox") as browser:
        page = browser.new_page()
        page.context.set_offline(True)
        page.on("console", lambda message: complaints.append(message.text))
        page.goto((folder / "report.html").as_uri())
        page.wait_for_function(
            "document.querySelectorAll('.main-svg').length >= 2 * document.querySelectorAll('figure').length"
        )
        assert page.locator("figure .js-plotly-plot").count() == page.locator("figure").count() == 11
        assert page.locator("#no-charts").is_hidden()
    assert not complaints


@pytest.mark.parametrize("watched", ["loss_with_penalty", "loss"])
def test_figure_5_comes_with_the_penalty_and_without_and_says_what_early_stopping_watched(run, tmp_path, watched):
    result, predictions = run
    result["settings"]["training"]["monitor"] = watched
    captions = re.findall("<figcaption>(Figure 5.*?)</figcaption>", page_of(result, predictions, tmp_path))
    others = {"loss_with_penalty": "cross entropy plus the L2 penalty", "loss": "cross entropy alone"}
    first = f"Figure 5: {others.pop(watched)}, which early stopping watched."
    for caption, words in zip(captions, (first, f"Figure 5: {others.popitem()[1]}."), strict=True):
        assert caption.startswith(words)


def test_every_figure_and_table_is_told_to_a_screen_reader(page):
    tags = Page(page).tags
    charts = [attrs for tag, attrs in tags if attrs.get("role") == "img"]
    names = [tag for tag, _ in tags]
    assert len(charts) == names.count("figure") == names.count("figcaption") == 11
    assert all(attrs["aria-label"] for attrs in charts)
    assert names.count("table") == names.count("caption") == 7
    assert len(re.findall('id="chart-', page)) == len(set(re.findall('id="(chart-[^"]*)"', page))) == 11


def test_names_are_escaped_wherever_they_appear(run, tmp_path):
    evil = "<script>alert(1)</script>"
    result, predictions = run
    result["protocol"] = result["encoder"]["source"] = result["versions"][evil] = evil
    result["corpus"]["name"] = evil
    result["by_speaker"] = {evil: result["by_speaker"]["S00"] | {"gender": evil}}
    result["by_gender"] = {evil: result["by_gender"]["female"]}
    result["random_split"] = {"protocol": evil, "pooled": result["pooled"]}
    page = page_of(result, predictions, tmp_path)
    assert evil not in page
    assert not Page(page).open


def test_a_random_split_is_shown_with_the_premium_and_many_folds_as_their_sum_only(run, tmp_path):
    result, predictions = run
    leaky = json.loads(json.dumps(result["pooled"]))
    leaky["wa"]["value"] += 0.05
    result["random_split"] = {"protocol": "RANDOM split that ignores speakers", "pooled": leaky}
    result["folds"] = result["folds"] * 3
    page = page_of(result, predictions, tmp_path)
    words = Page(page).words
    assert "RANDOM split that ignores speakers" in words
    assert "+5.0 points" in words
    assert "chart-pooled" in page
    assert "chart-fold-1" not in page


def test_an_evaluation_is_reported_with_what_was_left_out(tmp_path):
    evil = "<script>alert(1)</script>.wav"
    utterances = tuple(Utterance(Path(f"{i}.wav"), f"S{i % 4}", EMOTIONS[i % 6], "female", "ShEMO") for i in range(60))
    probabilities = np.random.default_rng(5).dirichlet(np.ones(6), 60)
    evaluation = Evaluation(utterances, EMOTIONS, probabilities, ((evil, "was cut"),), {"boredom": 2}, 0.4)
    protocol = "4 speakers, none of them named by the model's training"
    content = {"protocol": protocol, "corpus": {"name": "ShEMO"}, "labels": list(EMOTIONS), **evaluation.to_dict()}
    page = write_evaluation_report(content, tmp_path / "report.html").read_text(encoding="utf-8")
    read = Page(page)
    assert not read.open
    assert f"{content['scores']['wa']['value']:.1%}" in read.words
    for words in ("none of them named", "2 recordings of boredom", evil, "was cut", "S3"):
        assert words in read.words
    assert evil not in page
