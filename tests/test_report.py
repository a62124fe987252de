"""The report shows what the result says, and the predictions alone give the result back."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ser.corpora.corpus import Utterance
from ser.errors import JobError
from ser.experiments.evaluate import Evaluation
from ser.labels import EMOTIONS
from ser.reporting.crossval_report import write_report
from ser.reporting.evaluation_report import write_evaluation_report
from ser.scoring.metrics import confusion, score, scores_by
from ser.scoring.predictions import arrays, confusion_of, read_predictions

VOID = {"meta", "br", "img", "link", "hr", "input"}
SPEAKERS = [f"{gender}{number:02d}" for gender in "FM" for number in range(1, 6)]


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


def a_run(names=("corpus",), n_clips: int = 300, n_folds: int = 5):
    """A result and its predictions as `crossval` writes them, of random answers."""
    generator = np.random.default_rng(3)
    speakers = [SPEAKERS[i % 10] for i in range(n_clips)]
    true = generator.integers(0, 6, n_clips)
    logits = generator.normal(size=(n_clips, 6)) + 2 * np.eye(6)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    fold_of = np.array([SPEAKERS.index(speaker) % n_folds for speaker in speakers])
    files = [f"{speaker}_{i}.wav" for i, speaker in enumerate(speakers)]
    folds = []
    for number in range(n_folds):
        parts = {"test": fold_of == number, "validation": fold_of == (number + 1) % n_folds}
        parts["train"] = ~(parts["test"] | parts["validation"])
        rows, length = np.flatnonzero(parts["test"]), 8 + number
        of_fold = score(true[rows], probabilities[rows], [speakers[i] for i in rows], EMOTIONS)
        epochs = [{"epoch": e, "train_loss": 5 / e, "validation_loss": 6 / e, "penalty": 26 / e}
                  for e in range(1, length + 1)]  # fmt: skip
        said = {part: [files[i] for i in np.flatnonzero(mask)] for part, mask in parts.items()}
        matrix = confusion(true[rows], predicted[rows], 6).tolist()
        told = {"best_epoch": length - 3, "epochs": epochs, "test_confusion": matrix}
        folds.append(said | told | {"test_scores": of_fold.to_dict()})
    means = {name: float(np.mean([fold["test_scores"][name]["value"] for fold in folds]))
             for name in ("wa", "uar", "macro_f1")}  # fmt: skip
    of = {"true": true, "probabilities": probabilities, "speakers": speakers, "labels": EMOTIONS}
    by_gender = scores_by([speaker[0] for speaker in speakers], **of)
    by_speaker = scores_by(speakers, **of, n_bootstrap=0)
    result = {
        "kind": "crossval", "created": "2026-03-01T12:00:00+0000", "labels": list(EMOTIONS), "seed": 40,
        "protocol": "speaker-disjoint 5-fold cross-validation",
        "settings": {"training": {"batch_size": 16, "patience": 3}, "split": "speakers"},
        "corpus": {"name": names[0], "fingerprint": "abc", "n_utterances": n_clips, "n_speakers": 10},
        "encoder": {"source": "ntu-spml/distilhubert", "dim": 768}, "versions": {"torch": "2.13.0"}, "folds": folds,
        "pooled": score(**of).to_dict(), "pooled_confusion": confusion(true, predicted, 6).tolist(),
        "mean_over_folds": means, "by_gender": {name: scores.to_dict() for name, scores in by_gender.items()},
        "by_speaker": {name: scores.to_dict() | {"gender": {"F": "female", "M": "male"}[name[0]]}
                       for name, scores in by_speaker.items()},
    }  # fmt: skip
    predictions = [
        {"file": files[i], "speaker": speakers[i], "fold": str(fold_of[i] + 1), "emotion": EMOTIONS[true[i]],
         "predicted": EMOTIONS[predicted[i]],
         **{label: f"{value:.6f}" for label, value in zip(EMOTIONS, probabilities[i], strict=True)}}
        for i in range(n_clips)
    ]  # fmt: skip
    return json.loads(json.dumps(result, allow_nan=False)), predictions


def page_of(result, predictions, folder) -> str:
    return write_report(result, predictions, folder / "report.html").read_text(encoding="utf-8")


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def close(ours, theirs) -> bool:
    """Equal but for the rounding of the probabilities in the file."""
    if isinstance(theirs, dict):
        return set(ours) == set(theirs) and all(close(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    return ours == (pytest.approx(theirs, abs=2e-6) if isinstance(theirs, float) else theirs)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return page_of(*a_run(), tmp_path_factory.mktemp("run"))


def test_the_predictions_alone_give_every_score_back(tmp_path):
    result, predictions = a_run()
    rows = read_predictions(write_csv(tmp_path / "predictions.csv", predictions))
    true, _, probabilities = arrays(rows, result["labels"])
    again = score(true, probabilities, [row["speaker"] for row in rows], result["labels"])
    assert close(again.to_dict(), result["pooled"])


def test_the_written_answer_counts_where_rounding_made_a_tie():
    result, predictions = a_run()
    row = next(row for row in predictions if row["predicted"] == "surprise")
    row.update(dict.fromkeys(EMOTIONS, "0.166667"))
    assert confusion_of(predictions, EMOTIONS) == result["pooled_confusion"]


def test_a_report_of_other_predictions_is_refused(tmp_path):
    result, predictions = a_run()
    with pytest.raises(JobError, match="299 rows give another confusion matrix"):
        write_report(result, predictions[1:], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_predictions_without_a_label_column_or_row_are_refused(tmp_path):
    with pytest.raises(JobError, match="'boredom'"):
        confusion_of(a_run(n_clips=30)[1], [*EMOTIONS, "boredom"])
    path = tmp_path / "predictions.csv"
    with pytest.raises(JobError, match="lacks the columns fold, emotion, predicted"):
        read_predictions(write_csv(path, [{"file": "a", "speaker": "b"}]))
    path.write_text("file,speaker,fold,emotion,predicted\n")
    with pytest.raises(JobError, match="lacks any row"):
        read_predictions(path)


def test_the_page_is_well_formed_and_says_what_was_measured_how(page):
    read, (result, _) = Page(page), a_run()
    assert not read.open
    assert page.startswith("<!DOCTYPE html>")
    assert read.words.count("Cross-validation on corpus") == 2
    for words in ("speaker-disjoint 5-fold", "ntu-spml/distilhubert", "settings.training.batch_size", "2.13.0",
                  "Validated by 10 speakers, the most used in 1 fold."):  # fmt: skip
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
def test_every_chart_is_drawn_without_a_network(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not on the PATH")
    path = write_report(*a_run(), tmp_path / "report.html")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.context.set_offline(True)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(path.as_uri())
        page.wait_for_function(
            "document.querySelectorAll('.main-svg').length >= 2 * document.querySelectorAll('figure').length"
        )
        assert page.locator("figure .js-plotly-plot").count() == page.locator("figure").count() == 11
        assert page.locator("#no-charts").is_hidden()
        assert not complaints
        browser.close()


def captions(result, tmp_path) -> list[str]:
    page = page_of(*result, tmp_path)
    return [text for text in re.findall("<figcaption>(.*?)</figcaption>", page) if "Figure 5" in text]


def test_figure_5_comes_with_the_penalty_and_without_and_says_what_early_stopping_watched(tmp_path):
    alone, both, watched = (
        "cross entropy alone",
        "cross entropy plus the L2 penalty",
        ", which early stopping watched.",
    )
    result, predictions = a_run()
    for shown in ((both + watched, alone + "."), (alone + watched, both + ".")):
        found = captions((result, predictions), tmp_path)
        for caption, words in zip(found, shown, strict=True):
            assert caption.startswith(f"Figure 5: {words}")
        result["settings"]["training"]["monitor"] = "loss"


def test_every_figure_and_table_is_told_to_a_screen_reader(page):
    tags = Page(page).tags
    charts = [attrs for tag, attrs in tags if attrs.get("role") == "img"]
    names = [tag for tag, _ in tags]
    assert len(charts) == names.count("figure") == names.count("figcaption") == 11
    assert all(attrs["aria-label"] for attrs in charts)
    assert names.count("table") == names.count("caption") == 7
    assert len(re.findall('id="chart-', page)) == len(set(re.findall('id="(chart-[^"]*)"', page))) == 11


def test_names_are_escaped_wherever_they_appear(tmp_path):
    evil = "<script>alert(1)</script>"
    result, predictions = a_run(names=(evil,))
    result["protocol"] = result["encoder"]["source"] = result["versions"][evil] = evil
    result["by_speaker"] = {evil: result["by_speaker"]["F01"] | {"gender": evil}}
    result["by_gender"] = {evil: result["by_gender"]["F"]}
    result["random_split"] = {"protocol": evil, "pooled": result["pooled"]}
    page = page_of(result, predictions, tmp_path)
    assert evil not in page
    assert not Page(page).open


def test_a_random_split_is_shown_with_the_premium_and_many_folds_as_their_sum_only(tmp_path):
    result, predictions = a_run()
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
    utterances = tuple(
        Utterance(Path(f"{i}.wav"), f"S{i % 4}", EMOTIONS[i % 6], "female", "ShEMO") for i in range(60)
    )
    probabilities = np.random.default_rng(5).dirichlet(np.ones(6), 60)
    evaluation = Evaluation(utterances, EMOTIONS, probabilities, ((evil, "was cut"),), {"boredom": 2}, 0.4)
    protocol = "4 speakers, none of them named by the model's training"
    content = {
        "protocol": protocol,
        "corpus": {"name": "ShEMO"},
        "labels": list(EMOTIONS),
        **evaluation.to_dict(),
    }
    page = write_evaluation_report(content, tmp_path / "report.html").read_text(encoding="utf-8")
    read = Page(page)
    assert not read.open
    assert f"{content['scores']['wa']['value']:.1%}" in read.words
    for words in ("none of them named", "2 recordings of boredom", evil, "was cut", "S3"):
        assert words in read.words
    assert evil not in page
