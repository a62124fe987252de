"""The report of a corpus for people: plain text for a terminal, a self-contained page with charts.

In: a `CorpusReport`. Out: text or HTML. Nothing is computed here that the report's JSON does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ser.corpora.checks import RULES, Problem
from ser.corpora.folder import shown
from ser.corpora.inspect import CorpusReport
from ser.reporting.render import aligned, render

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_TEXT_PROBLEMS = 20  # of a kind in the text; the JSON and the page hold all
MAX_TEXT_SPEAKERS = 100


def report_text(report: CorpusReport) -> str:
    """The report for a terminal."""
    parts = [*_headline(report), "", *aligned(_emotion_rows(report))]
    if len(report.speakers) <= MAX_TEXT_SPEAKERS:
        parts += ["", *aligned(_speaker_rows(report))]
    else:
        parts += ["", f"{len(report.speakers)} speakers: the page and the JSON list them."]
    if report.remarks:
        parts += ["", *(f"Note: {remark}" for remark in report.remarks)]
    return shown("\n".join([*parts, "", *_problem_lines(report.problems)]) + "\n")


def report_page(report: CorpusReport) -> str:
    """The report as one HTML page that needs no network."""
    from ser.reporting.style import BLUE, GREY, ORANGE, emotion_colours

    names, emotions = _genders(report), [row.emotion for row in report.emotions]
    colours = {"female": ORANGE, "male": BLUE}
    genders = {name: [row.by_gender.get(name, 0) for row in report.emotions] for name in names}
    spoken = {row.emotion: [row.by_speaker.get(name, 0) for name in report.speakers] for row in report.emotions}
    by_speaker = _bars(spoken, list(report.speakers), emotion_colours(emotions), horizontal=True)
    return render(
        "corpus.html",
        report=report,
        rules=RULES,
        headline=_headline(report),
        emotions=_emotion_rows(report),
        speakers=_speaker_rows(report),
        by_gender=_bars(genders, emotions, {name: colours.get(name, GREY) for name in names}),
        by_speaker=by_speaker,
    )


def _headline(report: CorpusReport) -> list[str]:
    lines = [
        f"{report.name} in {report.root}",
        f"{report.n_found} recordings, {report.n_usable} usable, of {len(report.speakers)} speakers and "
        f"{len(report.emotions)} emotions; fingerprint {report.fingerprint}",
    ]
    if report.hours is not None and report.sample_rates:
        rates = ", ".join(f"{rate} Hz ({n})" for rate, n in report.sample_rates.items())
        spread = ", ".join(f"{name} {value:.2f}" for name, value in report.durations_s.items())
        lines += [f"{report.hours:.2f} hours at {rates}", f"seconds a recording: {spread}"]
    elif not report.decoded:
        lines.append("The sound was not looked at.")
    return lines


def _genders(report: CorpusReport) -> list[str]:
    return sorted({gender for row in report.emotions for gender in row.by_gender})


def _emotion_rows(report: CorpusReport) -> list[list[str]]:
    """The table of emotions, its head first."""

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    genders = _genders(report)
    return [["emotion", "recordings", "share", "speakers", *genders, "hours", "mean s", "level dB"]] + [
        [row.emotion, str(row.n), f"{100 * row.share:.1f} %", str(row.n_speakers)]
        + [str(row.by_gender.get(gender, 0)) for gender in genders]
        + [number(row.hours, ".2f"), number(row.mean_s, ".2f"), number(row.level_db, ".1f")]
        for row in report.emotions
    ]


def _speaker_rows(report: CorpusReport) -> list[list[str]]:
    """The table of speakers, its head first."""
    rows = [["speaker", "gender", *(row.emotion for row in report.emotions), "all"]]
    for name, gender in report.speakers.items():
        counts = [row.by_speaker.get(name, 0) for row in report.emotions]
        rows.append([name, gender, *(str(n) if n else "·" for n in counts), str(sum(counts))])
    return rows


def _problem_lines(problems: Sequence[Problem]) -> Iterator[str]:
    if not problems:
        yield "No problem was found."
    for kind, (dropped, meaning) in RULES.items():
        those = [problem for problem in problems if problem.kind == kind]
        if those:
            yield f"{kind}: {len(those)}, {'left out' if dropped else 'kept'} ({meaning})"
            yield from (f"  {one.file}: {one.reason}" for one in those[:MAX_TEXT_PROBLEMS])
        if len(those) > MAX_TEXT_PROBLEMS:
            yield f"  and {len(those) - MAX_TEXT_PROBLEMS} more, all listed by --json and --html"


def _bars(
    counts: Mapping[str, Sequence[int]], names: Sequence[str], colours: Mapping[str, str], horizontal: bool = False
) -> Figure:
    """Stacked bars, one a name; `counts` has the recordings of each name for every layer of the stack."""
    import plotly.graph_objects as go

    from ser.reporting.style import plain, styled

    figure = styled(go.Figure(), height=160 + 16 * len(names) if horizontal else 380)
    shown = [plain(name) for name in names]
    for layer, values in counts.items():
        x, y = (values, shown) if horizontal else (shown, values)
        name, value = ("%{y}", "%{x}") if horizontal else ("%{x}", "%{y}")
        hover = f"{name}, {plain(layer)}: {value} recordings<extra></extra>"
        look = {"marker_color": colours[layer], "orientation": "h" if horizontal else "v"}
        figure.add_bar(x=x, y=y, name=plain(layer), hovertemplate=hover, **look)
    figure.update_layout(barmode="stack", legend_traceorder="normal")
    if horizontal:
        figure.update_yaxes(type="category", autorange="reversed", dtick=1)
    axis = figure.update_xaxes if horizontal else figure.update_yaxes
    axis(title_text="recordings")
    return figure
