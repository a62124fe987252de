"""The report of a corpus for people: plain text for a terminal, a self-contained page with plotly charts.

In: a `CorpusReport`. Out: text or HTML. Nothing is computed here that the report's JSON does not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ser.corpora.checks import Problem
    from ser.corpora.inspect import CorpusReport

MAX_TEXT_PROBLEMS = 20  # of a kind in the text; the JSON and the page hold all
MAX_TEXT_SPEAKERS = 100


def report_text(report: CorpusReport) -> str:
    """The report for a terminal."""
    genders = _genders(report)
    head = ["emotion", "clips", "share", "speakers", *genders, "hours", "mean s", "level dB"]
    parts = [_headline(report), "", *_aligned([head, *_emotion_rows(report, genders)])]
    if len(report.speakers) <= MAX_TEXT_SPEAKERS:
        emotions = [row.emotion for row in report.emotions]
        parts += ["", *_aligned([["speaker", "gender", *emotions, "all"], *_speaker_rows(report)])]
    else:
        parts += ["", f"{len(report.speakers)} speakers: the page and the JSON list them."]
    if report.remarks:
        parts += ["", *(f"Note: {remark}" for remark in report.remarks)]
    return "\n".join([*parts, "", *_problem_lines(report.problems)]) + "\n"


def report_page(report: CorpusReport) -> str:
    """The report as one HTML page that needs no network."""
    from ser.corpora.checks import RULES
    from ser.reporting.page import chart, folded, page, paragraph, section, table

    genders = _genders(report)
    emotions = [row.emotion for row in report.emotions]
    head = ["emotion", "clips", "share", "speakers", *genders, "hours", "mean seconds", "mean level dB"]
    counts = Counter(problem.kind for problem in report.problems)
    rules = [[kind, counts[kind], _fate(dropped), text] for kind, (dropped, text) in RULES.items()]
    files = [[one.file, one.kind, one.reason, _fate(one.dropped)] for one in report.problems]
    speakers = table("Clips by speaker", ["speaker", "gender", *emotions, "all"], _speaker_rows(report))
    return page(
        f"Corpus {report.name}",
        [
            *(paragraph(line) for line in _headline(report).splitlines()),
            *(paragraph(remark, note=True) for remark in report.remarks),
            section(
                "Emotions",
                table("Usable clips by emotion", head, _emotion_rows(report, genders)),
                chart("emotions", _emotion_figure(report, genders), "Usable clips by emotion and gender"),
            ),
            section(
                "Speakers",
                chart("speakers", _speaker_figure(report), "Usable clips by speaker and emotion"),
                folded("The same in numbers", speakers),
            ),
            section(
                "Problems",
                table("What is looked for", ["problem", "clips", "clip is", "meaning"], rules, words=True),
                table("Clip by clip", ["file", "problem", "reason", "clip is"], files, words=True)
                if files
                else paragraph("None was found."),
            ),
        ],
    )


def _headline(report: CorpusReport) -> str:
    lines = [
        f"{report.name} in {report.root}",
        f"{report.n_found} recordings, {report.n_usable} usable, of {len(report.speakers)} speakers and "
        f"{len(report.emotions)} emotions; fingerprint {report.fingerprint}",
    ]
    if report.hours is not None and report.sample_rates:
        rates = ", ".join(f"{rate} Hz ({n})" for rate, n in report.sample_rates.items())
        spread = ", ".join(f"{name} {value:.2f}" for name, value in report.durations_s.items())
        lines += [f"{report.hours:.2f} hours at {rates}", f"seconds a clip: {spread}"]
    elif not report.decoded:
        lines.append("The sound was not looked at.")
    return "\n".join(lines)


def _genders(report: CorpusReport) -> list[str]:
    return sorted({gender for row in report.emotions for gender in row.by_gender})


def _emotion_rows(report: CorpusReport, genders: Sequence[str]) -> list[list[str]]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        [row.emotion, str(row.n), f"{100 * row.share:.1f} %", str(row.n_speakers)]
        + [str(row.by_gender.get(gender, 0)) for gender in genders]
        + [number(row.hours, ".2f"), number(row.mean_s, ".2f"), number(row.level_db, ".1f")]
        for row in report.emotions
    ]


def _speaker_rows(report: CorpusReport) -> list[list[str]]:
    rows = []
    for name, gender in report.speakers.items():
        counts = [row.by_speaker.get(name, 0) for row in report.emotions]
        rows.append([name, gender, *(str(n) if n else "·" for n in counts), str(sum(counts))])
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _problem_lines(problems: Sequence[Problem]) -> Iterable[str]:
    from ser.corpora.checks import RULES

    if not problems:
        yield "No problem was found."
    for kind, (dropped, meaning) in RULES.items():
        those = [problem for problem in problems if problem.kind == kind]
        if those:
            yield f"{kind}: {len(those)}, {_fate(dropped)} ({meaning})"
            yield from (f"  {one.file}: {one.reason}" for one in those[:MAX_TEXT_PROBLEMS])
        if len(those) > MAX_TEXT_PROBLEMS:
            yield f"  and {len(those) - MAX_TEXT_PROBLEMS} more, all listed by --json and --html"


def _fate(dropped: bool) -> str:
    return "left out" if dropped else "kept"


def _emotion_figure(report: CorpusReport, genders: Sequence[str]) -> go.Figure:
    import plotly.graph_objects as go

    from ser.reporting.style import BLUE, GREY, ORANGE, plain, styled

    colours = {"female": ORANGE, "male": BLUE}
    figure = styled(go.Figure(), height=380)
    for gender in genders:
        figure.add_bar(
            name=plain(gender),
            x=[plain(row.emotion) for row in report.emotions],
            y=[row.by_gender.get(gender, 0) for row in report.emotions],
            marker_color=colours.get(gender, GREY),
            hovertemplate="%{x}, " + plain(gender) + ": %{y} clips<extra></extra>",
        )
    figure.update_layout(barmode="stack", legend_traceorder="normal")
    figure.update_yaxes(title_text="clips")
    return figure


def _speaker_figure(report: CorpusReport) -> go.Figure:
    import plotly.graph_objects as go

    from ser.reporting.style import emotion_colours, plain, styled

    colours = emotion_colours([row.emotion for row in report.emotions])
    figure = styled(go.Figure(), height=160 + 16 * len(report.speakers))
    for row in report.emotions:
        figure.add_bar(
            name=plain(row.emotion),
            y=[plain(name) for name in report.speakers],
            x=[row.by_speaker.get(name, 0) for name in report.speakers],
            orientation="h",
            marker_color=colours[row.emotion],
            hovertemplate="%{y}: %{x} clips of " + plain(row.emotion) + "<extra></extra>",
        )
    figure.update_layout(barmode="stack", legend_traceorder="normal")
    figure.update_yaxes(type="category", autorange="reversed", dtick=1)
    figure.update_xaxes(title_text="clips")
    return figure
