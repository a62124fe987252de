"""Charts show the numbers that they are given, in words and colours that can be told apart."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from plotly.colors import sample_colorscale

from ser.experiments.published import PUBLISHED, ComparisonRow
from ser.labels import EMOTIONS
from ser.reporting.ablation_report import cost_figure, write_ablation_report
from ser.reporting.charts import confusion_figure, fold_matrices_figure, learning_curves_figure
from ser.reporting.comparison import comparison_figure, write_comparison_report
from ser.reporting.recording_charts import spectrogram, timeline_figure, waveform_envelope, with_spectrogram
from ser.reporting.score_charts import class_shares_figure, reliability_figure, speaker_strip_figure
from ser.reporting.style import EMOTION_COLOURS, INK, emotion_colours, whiskers
from ser.scoring.metrics import Reliability

MATRIX = np.diag([30, 3, 10, 40, 20, 8]) + np.eye(6, k=1, dtype=int) * 10


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def history(*lengths: int) -> list[dict]:
    def losses(fold: int, epoch: int) -> dict:
        return {"epoch": epoch, "train_loss": fold + 10 / epoch, "validation_loss": fold + 20 / epoch}

    return [
        {"best_epoch": length - 1, "epochs": [losses(fold, epoch) for epoch in range(1, length + 1)]}
        for fold, length in enumerate(lengths)
    ]


def test_a_matrix_shows_counts_and_shares_of_the_true_class():
    heatmap, written = confusion_figure(MATRIX, EMOTIONS).data
    assert heatmap.z[0][0] == pytest.approx(30 / 40)
    assert written.text[0] == "30<br>75%"
    assert heatmap.hovertext[0][1] == "true: anger<br>predicted: fear<br>10 of 40 (25.0%)"
    heatmap, written = confusion_figure(np.zeros((6, 6), dtype=int), EMOTIONS).data  # no clips
    assert written.text[0] == "0<br>0%"
    assert np.isfinite(heatmap.z).all()


def test_what_is_written_stands_out_from_the_colour_behind_it():
    assert contrast(INK, "#ffffff") > 4.3  # on a light and on a dark page
    assert contrast(INK, "#0b0f19") > 4.2
    matrix = np.array([[value, 1000 - value] for value in range(0, 1001, 20)])
    square = np.pad(matrix, ((0, 0), (0, len(matrix) - 2)))
    written = confusion_figure(square, [f"class {number}" for number in range(len(matrix))]).data[1]
    for row, value in enumerate(matrix[:, 0]):
        shade = sample_colorscale("Cividis", [value / 1000], colortype="tuple")[0]
        cell = "#" + "".join(f"{round(255 * part):02x}" for part in shade)
        ink = {"black": "#000000", "white": "#ffffff"}[written.textfont.color[row * len(square)]]
        assert contrast(cell, ink) >= 4.2


def test_every_emotion_has_a_colour_of_its_own_in_any_corpus():
    labels = [*EMOTIONS, "disgust", "boredom", "calm"]
    colours = emotion_colours(labels)
    assert len(set(colours.values())) == len(labels)
    assert {label: colours[label] for label in EMOTIONS} == EMOTION_COLOURS


def test_matrices_of_each_fold_and_their_sum_say_their_axes_and_share_one_scale_of_colours():
    words = {"hover_true": "درست", "hover_predicted": "پاسخ"}
    grid = fold_matrices_figure([MATRIX] * 5, EMOTIONS, words=words)
    names = [*(f"fold {number}" for number in range(1, 6)), "all folds"]
    assert [note.text for note in grid.layout.annotations] == names
    assert grid.data[-1].text[0] == "150<br>75%"
    for figure, *expected in ((confusion_figure(MATRIX, EMOTIONS), "predicted", "true"), (grid, "پاسخ", "درست")):
        axes = figure.to_dict()["layout"]
        for kind, title in zip(("xaxis", "yaxis"), expected, strict=True):
            titles = {axis["title"]["text"] for name, axis in axes.items() if name.startswith(kind)}
            assert titles - ({""} if kind == "yaxis" else set()) == {title}
        assert {trace.coloraxis for trace in figure.data if trace.type == "heatmap"} == {"coloraxis"}
        assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)


def test_learning_curves_average_the_folds_dash_averages_of_some_and_mark_the_best_epoch():
    figure = learning_curves_figure(history(4, 6))
    means = [trace for trace in figure.data if "mean" in (trace.name or "") and trace.line.color == "#0072B2"]
    whole, partial = means
    assert list(whole.x) == [1, 2, 3, 4]
    assert whole.y[1] == pytest.approx(np.mean([5, 6]))
    assert (list(partial.x), partial.line.dash) == ([4, 5, 6], "dash")
    assert partial.y[1] == pytest.approx(1 + 10 / 5)
    marks = figure.data[-1]  # and when each fold stopped
    assert list(marks.x) == [3, 5]
    assert [tuple(row) for row in marks.customdata] == [(1, 4), (2, 6)]


def test_learning_curves_with_the_penalty_are_what_early_stopping_watches():
    epochs = [{"epoch": 1, "train_loss": 1.5, "validation_loss": 2.0, "penalty": 26.0}]
    for penalty, title in ((0, "cross entropy"), (26, "cross entropy + L2 penalty")):
        figure = learning_curves_figure([{"epochs": epochs}], with_penalty=bool(penalty))
        assert [trace.y[0] - penalty for trace in figure.data[:4]] == [1.5, 1.5, 2.0, 2.0]
        assert figure.layout.yaxis.title.text == title


@pytest.mark.parametrize(
    ("n_epochs", "ticks"),
    [(1, [1]), (3, [1, 2, 3]), (25, [1, 3, 6, 9, 12, 15, 18, 21, 24]), (150, [1, *range(15, 151, 15)])],
)
def test_epochs_are_whole_numbers_at_the_axis(n_epochs, ticks):
    assert list(learning_curves_figure(history(n_epochs)).layout.xaxis.tickvals) == ticks


@pytest.mark.parametrize("folds", [[], [{"epochs": []}], [{"epochs": [], "best_epoch": None}] * 5])
def test_learning_curves_say_so_before_the_first_epoch(folds):
    assert learning_curves_figure(folds).layout.annotations[0].text == "no epoch has ended yet"


def test_learning_curves_leave_out_missing_losses():
    missing = {"validation_loss": None}
    epochs = [{"epoch": 1, "train_loss": 1.0} | missing, {"epoch": 2, "train_loss": math.nan} | missing]
    figure = learning_curves_figure([{"epochs": epochs, "best_epoch": 0}])
    assert [list(trace.x) for trace in figure.data] == [[1], [1], [], [], []]


def test_the_comparison_keeps_published_figures_apart_with_their_protocol():
    rows = [
        ComparisonRow("ours", 0.78, 0.75, 0.80, protocol="speaker-disjoint"),
        ComparisonRow("theirs", 0.84, published=True, protocol="random 80/20"),
        ComparisonRow("not stated", None, published=True),
    ]
    measured, published = comparison_figure(rows).data
    assert (measured.error_x.array[0], measured.error_x.arrayminus[0]) == pytest.approx((0.02, 0.03))
    assert published.error_x.array is None
    assert published.marker.pattern.shape == "/"
    assert published.hovertext[0] == "theirs<br>84.0%<br>random 80/20"
    assert list(published.y) == ["theirs"]
    assert measured.yaxis != published.yaxis
    assert len(comparison_figure([ComparisonRow("ours", 0.7)]).data) == 1
    assert not comparison_figure([]).data


def compared_on(name: str, tmp_path) -> str:
    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    row = {"title": "Bi-GRU", "wa": score, "uar": score, "macro_f1": score}
    about = {"protocol": "speaker-disjoint", "intervals": "95 %", "rows": [row]}
    corpus = {"name": name, "n_utterances": 3000, "n_speakers": 87, "emotions": dict.fromkeys(EMOTIONS, 500)}
    page = write_comparison_report(about | {"corpus": corpus}, tmp_path / "report.html")
    return page.read_text(encoding="utf-8")


def test_figure_6_has_the_seven_bars_of_the_paper_where_the_corpus_is_shemo_alone(tmp_path):
    page, other = (compared_on(name, tmp_path) for name in ("ShEMO", "ShEMO+EMO-DB"))
    assert [row.source for row in PUBLISHED].count("the paper's figure 6") == 7
    assert all(row.name in page for row in PUBLISHED)
    assert page.count("value not stated in the text") == sum(row.value is None for row in PUBLISHED) == 5
    assert "40.0% to 60.0%" in page
    assert not any(row.name in other for row in PUBLISHED)
    assert "Published figures are of ShEMO, so they do not stand beside these." in other


def test_the_curve_of_score_against_cost_joins_what_nothing_cheaper_beats(tmp_path):
    def row(cost: int, wa: float) -> dict[str, Any]:
        score = {"value": wa, "low": wa - 0.1, "high": wa + 0.2}
        return {"cost": cost, "weights": 7, "wa": score, "uar": score, "contribution": {"wa": score}}

    options = {"half": row(50, 0.6), "worse": row(60, 0.5), "few": {"refused": "too few"}, "dear": row(200, 0.8)}
    about = {"protocol": "p", "intervals": "95 %", "corpus": {"name": "c", "n_utterances": 2, "n_speakers": 2}}
    content = about | {"base": row(100, 0.7), "options": options}
    best, others, base = cost_figure(content).data
    assert list(zip(best.x, best.y, strict=True)) == [(0.5, 0.6), (1, 0.7), (2, 0.8)]
    assert (list(others.text), list(base.text)) == (["half", "worse", "dear"], ["base"])
    assert (others.error_y.array[0], others.error_y.arrayminus[0]) == pytest.approx((0.2, 0.1))
    at_zero = whiskers([{"value": 0.5, "low": 0.0, "high": None}])
    assert at_zero == {"array": [0.0], "arrayminus": [0.5]}  # an end at 0 is known, a missing one is not
    assert "not measured: too few" in write_ablation_report(content, tmp_path / "report.html").read_text()


def test_every_speaker_is_a_point_on_the_strip_of_its_gender():
    told = {"M01": (0.5, "male", 10), "F01": (0.75, "female", 40), "F02": (0.25, "female", 10), "X": (1.0, None, 1)}
    names = ("wa", "gender", "n_utterances")
    figure = speaker_strip_figure({name: dict(zip(names, of, strict=True)) for name, of in told.items()})
    assert list(figure.layout.yaxis.ticktext) == ["female", "gender unknown", "male"]
    assert list(figure.data[0].x) == [0.75, 0.25]
    assert figure.layout.shapes[0].x0 == 0.5


def test_reliability_leaves_out_empty_bins():
    points = reliability_figure(Reliability((math.nan, 0.7), (math.nan, 0.6), (0, 12))).data[0]
    assert (list(points.x), list(points.y), list(points.customdata)) == ([0.7], [0.6], [12])


def test_class_shares_are_means_with_the_extremes_of_the_folds():
    bar = class_shares_figure({"test": {"anger": [0.3, 0.4, 0.35]}}).data[0]
    assert bar.y[0] == pytest.approx(0.35)
    assert (bar.error_y.array[0], bar.error_y.arrayminus[0]) == pytest.approx((0.05, 0.05))


def test_the_timeline_shares_its_seconds_with_the_waveform_and_reaches_both_ends():
    envelope = waveform_envelope(np.sin(np.arange(48_000)), 16_000)
    starts = np.array([0.0, 0.5, 1.0])
    figure = timeline_figure(envelope, starts, starts + 2, np.full((3, 6), 1 / 6), EMOTIONS)
    area = figure.data[-1]
    assert list(area.x) == [0.0, 0.0, 1.0, 1.5, 2.0, 3.0, 3.0]
    assert [value > 0 for value in area.y] == [False, *[True] * 5, False]
    assert figure.layout.xaxis.matches == "x2"
    assert list(figure.layout.xaxis.range) == [0.0, 3.0]
    envelope = waveform_envelope(np.ones(1_600), 16_000)  # one window
    figure = timeline_figure(envelope, np.array([0.0]), np.array([0.1]), [[0.5, 0.5]], ["anger", "fear"])
    assert list(figure.data[-1].x) == [0.0, 0.0, 0.05, 0.1, 0.1]


def test_nothing_is_drawn_where_nobody_speaks():
    envelope = waveform_envelope(np.ones(160_000), 16_000)
    starts, ends = np.array([1.0, 1.5, 7.0]), np.array([3.0, 3.5, 9.0])
    figure = timeline_figure(envelope, starts, ends, np.full((3, 2), 0.5), ["anger", "fear"])
    drawn = list(zip(figure.data[-1].x, figure.data[-1].y, strict=True))
    assert drawn[4:8] == [(3.5, 0.5), (3.5, 0), (7.0, 0), (7.0, 0.5)]
    assert set(figure.data[-1].text) == {"50%"}  # nobody is told of the zeros that end an area
    assert figure.data[2].text[4:8] == ("3.5", "3.5", "7.0", "7.0")
    assert list(figure.layout.xaxis.range) == [0, 10]


def test_a_spectrogram_shows_a_tone_at_its_frequency_and_while_it_sounds_and_stands_in_for_the_waveform():
    tone = np.sin(2 * np.pi * 2_000 * np.arange(16_000) / 16_000)
    samples = np.concatenate([tone, np.zeros(16_000)])
    level_db = spectrogram(samples, 16_000)
    assert level_db.shape == (64, 400)
    assert set(level_db[:, :190].argmax(axis=0)) == {16}  # 2 of 8 kHz
    assert level_db[16, :190].min() > -3
    assert level_db[:, 210:].max() == -70
    assert spectrogram(np.zeros(9_600_000), 16_000).shape == spectrogram([], 16_000).shape == (64, 400)
    areas = timeline_figure(waveform_envelope(samples, 16_000), np.zeros(1), np.ones(1), [[1.0]], ["anger"])
    figure = with_spectrogram(areas, samples, 16_000, {"waveform": "wave", "spectrogram": "bands"})
    wave, bands = ([button.label, list(button.args[1])] for button in figure.layout.updatemenus[0].buttons)
    assert wave == ["wave", [True, True, True, True, False]]
    assert bands == ["bands", [False, False, True, True, True]]
    assert [trace.visible for trace in figure.data[2:]] == [None, None, False]


def test_the_envelope_keeps_every_peak_and_is_small():
    samples = np.zeros(1_000_000, dtype=np.float32)
    samples[123_456], samples[654_321] = 0.9, -0.8
    envelope = waveform_envelope(samples, 16_000)
    assert (envelope.high.max(), envelope.low.min()) == (np.float32(0.9), np.float32(-0.8))
    assert (len(envelope.times_s), envelope.duration_s) == (600, 62.5)
    assert len(waveform_envelope([0.1, 0.2], 16_000).times_s) == 2
    assert waveform_envelope([], 16_000).duration_s == 0


def test_names_are_shown_as_text_not_as_markup_and_nothing_is_asked_of_the_network():
    evil = "<img src=x>&</script>"
    figures = [
        confusion_figure([[1]], [evil], title=evil),
        comparison_figure([ComparisonRow(evil, 0.5, protocol=evil)]),
        speaker_strip_figure({evil: {"wa": 0.5, "gender": evil, "n_utterances": 1}}),
        class_shares_figure({evil: {evil: [1.0]}}),
    ]
    assert not any("<img" in json.dumps(figure.to_dict(), default=str) for figure in figures)
    text = confusion_figure(MATRIX, EMOTIONS).to_json() + learning_curves_figure(history(3)).to_json()
    assert not re.search("http|NaN|<", text)  # a script element may hold it
