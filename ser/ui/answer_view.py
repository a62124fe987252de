"""An answer as a visitor sees it: HTML, a chart, rows of a table, and files to save.

In: an `Answer` and a language. Out: HTML, a plotly figure, or plain rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from ser.audio.load import SAMPLE_RATE_HZ
from ser.ui.html import box, download, paragraph, percent
from ser.ui.texts import TEXTS, emotion_name, localised, localised_shares, say
from ser.ui.ticks import share_ticks, ticks_between

if TYPE_CHECKING:
    from ser.ui.answering import Answer

RECORDED = "audio.wav"  # what gradio calls a recording from the microphone
NEARLY = 0.1  # a second emotion that is less probable by less than this is named, too
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)  # between the marks of the time axis
ROW_FACTS = ("file", "emotion", "confident", "duration_s")  # of a row; the rest are probabilities
Row = Mapping[str, Any]  # of the table of answers: a column's key -> its value


def answer_html(answer: Answer, language: str) -> str:
    """The emotion, how sure the model is and what that means, all probabilities, and the answer as files."""
    prediction = answer.prediction
    heading = _heading(prediction.emotion, prediction.confident, language)
    kind = "sure" if prediction.confident else "unsure"
    title = f'<h2 data-answered="{escape(prediction.emotion)}">{escape(heading)}</h2>'
    voice = paragraph(say("voice_used", language)) if answer.voice else ""
    bars = _bars(_ranked(answer), _digits(answer), language)
    if answer.live:
        said = say("live_now", language, seconds=round(prediction.duration_s, 1))
        return box(kind, title, paragraph(said, "facts"), voice, bars, is_quiet=True)
    facts = _facts(prediction.file, prediction.duration_s, language)
    means = paragraph(meaning(answer, language))
    return box(kind, title, facts, means, voice, bars, saved([row_of(answer)], [prediction.to_dict()], language))


def side_by_side(rows: Sequence[Row], language: str) -> str:
    """Answered rows of the table beside each other, their emotions in one order."""
    boxes = []
    for row in rows:
        shares = [(label, share) for label, share in row.items() if label not in ROW_FACTS]
        boxes.append(
            box(
                "sure" if row["confident"] else "unsure",
                _facts(row["file"], row["duration_s"], language),
                _bars(shares, 1, language),
                heading=_heading(row["emotion"], row["confident"], language),
                is_quiet=True,
            )
        )
    return f'<div class="pair">{"".join(boxes)}</div>' if boxes else ""


def row_name(number: int, row: Row, language: str) -> str:
    """What an answered row is called where it can be chosen."""
    file = _file(row["file"], language)
    return f"{localised(str(number), language)} · \u2068{file}\u2069 · {emotion_name(row['emotion'], language)}"


def meaning(answer: Answer, language: str) -> str:
    """What the probability means, in one or two sentences whose numbers agree."""
    calibration, digits = answer.calibration, _digits(answer)
    (_, highest), *others = _ranked(answer)
    values = {"percent": percent(highest, digits), "threshold": percent(calibration.threshold, digits)}
    if not answer.prediction.confident:
        sentences = [say("never_sure" if calibration.is_never_sure else "unsure_means", language, **values)]
        if others and highest - others[0][1] < NEARLY:
            second = emotion_name(others[0][0], language)
            sentences.append(say("second", language, emotion=second, percent=percent(others[0][1], digits)))
        return " ".join(sentences)
    if calibration.precision is None:
        return say("uncalibrated", language, **values)
    return say("sure", language, precision=percent(calibration.precision, 0), **values)


def timeline_chart(answer: Answer, language: str) -> Any:
    """The waveform above the probabilities over time, as a plotly figure; None without a timeline."""
    from ser.reporting.recording_charts import timeline_figure, waveform_envelope, with_spectrogram

    moves = answer.prediction.timeline
    if moves is None:
        return None
    labels = list(answer.prediction.probabilities)
    words = {key: say(key, language) for key in ("seconds", "probability")}
    words |= {label: emotion_name(label, language) for label in labels}
    begin, end = answer.live or (0.0, answer.prediction.duration_s)
    envelope = waveform_envelope(answer.samples, SAMPLE_RATE_HZ)
    envelope = replace(envelope, times_s=envelope.times_s + begin)
    starts, ends = moves.start_s + begin, moves.end_s + begin
    digits = partial(localised_shares, language=language)
    figure = timeline_figure(envelope, starts, ends, moves.probabilities, labels, words, digits)
    figure.update_xaxes(range=[begin, end], **ticks_between(begin, end, STEPS_S, language))
    figure.update_yaxes(**share_ticks(language), row=2, col=1)
    if answer.live:  # drawn twice a second
        return figure
    shown = {key: say(key, language) for key in ("waveform", "spectrogram")}
    return with_spectrogram(figure, answer.samples, SAMPLE_RATE_HZ, shown)


def row_of(answer: Answer) -> dict[str, Any]:
    """An answer as a row of the table."""
    content = answer.prediction.to_dict()
    return {key: content[key] for key in ROW_FACTS} | content["probabilities"]


def table(rows: Sequence[Row], language: str) -> dict[str, Any]:
    """Rows in a visitor's language, as `gr.Dataframe` takes them."""
    keys = sorted(columns(rows), key=lambda key: key not in ("file", "problem"))  # a problem where it is seen
    heads = [say(key, language) if key in TEXTS else emotion_name(key, language) for key in keys]
    cells = [[_cell(key, row.get(key), language) for key in keys] for row in rows]
    numbers = (int, float)  # sorted as numbers, whatever digits they are shown in
    shown = [[localised(str(cell), language) if isinstance(cell, numbers) else cell for cell in line] for line in cells]
    return {"headers": heads, "data": cells, "metadata": {"display_value": shown, "styling": None}}


def saved(rows: Sequence[Row], content: Any, language: str) -> str:
    """Links that save answers as JSON and as a CSV table."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    links = [
        download("answers.json" if len(rows) > 1 else "answer.json", json.dumps(content, indent=2), "application/json"),
        download("answers.csv" if len(rows) > 1 else "answer.csv", text.getvalue(), "text/csv"),
    ]
    return f'<p class="downloads">{escape(say("downloads", language))} {" ".join(links)}</p>'


def columns(rows: Sequence[Row]) -> list[str]:
    """Every column that some row has: what all have first, a problem last."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "problem"))
    return keys + (["problem"] if any("problem" in row for row in rows) else [])


def _cell(key: str, value: Any, language: str) -> Any:
    if value is None:
        return ""
    if key == "emotion":
        return emotion_name(value, language)
    if isinstance(value, bool):
        return say("yes" if value else "no", language)
    if isinstance(value, float):
        return round(value, 1 if key == "duration_s" else 3)
    return value


def _file(name: str, language: str) -> str:
    return say("microphone", language) if name == RECORDED else name


def _heading(emotion: str, is_sure: bool, language: str) -> str:
    name = emotion_name(emotion, language)
    return name[:1].upper() + name[1:] if is_sure else say("unsure", language, emotion=name)


def _facts(file: str, duration_s: float, language: str) -> str:
    """Which recording, how long, and room for how long the answer took."""
    name, length = _file(file, language), say("length", language, seconds=round(duration_s, 1))
    return f'<p class="facts"><bdi>{escape(name)}</bdi> · {escape(length)}<span class="elapsed"></span></p>'


def _bars(shares: Sequence[tuple[str, float]], digits: int, language: str) -> str:
    """The probability of each emotion as a bar."""
    rows = []
    for label, share in shares:
        shown = say("percent", language, percent=percent(share, digits))
        rows.append(
            f'<tr><th scope="row">{escape(emotion_name(label, language))}</th><td class="bar" aria-hidden="true">'
            f'<i style="width: {100 * share:.1f}%"></i></td><td>{shown}</td></tr>'
        )
    return f'<table class="bars"><tbody>{"".join(rows)}</tbody></table>'


def _ranked(answer: Answer) -> list[tuple[str, float]]:
    return sorted(answer.prediction.probabilities.items(), key=lambda pair: -pair[1])


def _digits(answer: Answer) -> int:
    """As many as it takes to tell an unsure answer from the threshold."""
    shares = (_ranked(answer)[0][1], answer.calibration.threshold)
    if answer.prediction.confident:
        return 0
    return next((n for n in range(3) if len({percent(share, n) for share in shares}) == 2), 3)
