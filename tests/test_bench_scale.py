"""The bench at growing scale: every copy is new to the cache, figures become a table, nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import soundfile
from support import write_voice

from ser import bench_scale
from ser.bench import BenchError
from ser.bench_memory import peak_bytes
from ser.bench_scale import WORKS, Measured, do, extrapolated, scale, scale_table
from ser.cli import main
from ser.cli.bench import SCALE_BEGIN, SCALE_END
from ser.corpora import read_corpus

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "assets" / "scale.json"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Six recordings of three speakers and two emotions, at two rates, two of them twice; and a silent one."""
    folder = tmp_path / "toy"
    folder.mkdir()
    rows = ["path,speaker,emotion"]
    for number in range(6):
        rate_hz = 16_000 if number % 2 else 22_050
        write_voice(folder / f"{number}.wav", 0.5, rate_hz, seed=number % 4)
        rows.append(f"{number}.wav,s{number % 3},{('anger', 'neutral')[number % 2]}")
    soundfile.write(folder / "silent.wav", [0.0] * 8000, 16_000)
    (folder / "metadata.csv").write_text("\n".join([*rows, "silent.wav,s0,anger"]) + "\n")
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Jobs run in this process, and temporary folders lie in the one that is returned."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(bench_scale, "_in_a_process", do)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def test_every_work_is_measured_at_every_scale_and_nothing_is_left_behind(toy, tiny_checkpoint, here):
    *_, content = scale(read_corpus(toy), [2, 1], tiny_checkpoint)
    assert [(row["times"], row["work"]) for row in content["rows"]] == [
        (n, work) for n in (1, 2) for work in WORKS
    ]
    assert {(row["times"], row["utterances"]) for row in content["rows"]} == {(1, 6), (2, 12)}
    assert content["left_out"] == 1
    assert content["sample_rates_hz"] == [16_000, 22_050]
    for row in content["rows"]:
        assert row["seconds"] > 0
        assert row["peak_mib"] > 1
        assert row["hours"] == pytest.approx(row["times"] * 6 * 0.5 / 3600, rel=0.05)
    assert content["disk"][1]["features_mib"] > content["disk"][0]["features_mib"] > 0
    assert not list(here.iterdir())


def test_copies_differ_and_last_as_long(toy, tmp_path):
    sources = bench_scale._usable(read_corpus(toy))
    bench_scale._write_copies(tmp_path / "copies", sources, 1, 1)
    bench_scale._write_copies(tmp_path / "copies", sources, 2, 3)
    corpus = read_corpus(tmp_path / "copies")
    assert len({one.path.read_bytes() for one in corpus.utterances}) == len(corpus.utterances) == 18
    assert {soundfile.info(one.path).duration for one in corpus.utterances} == {0.5}
    assert corpus.speakers == ("s0", "s1", "s2")
    assert not corpus.skipped


def test_a_copy_that_the_cache_has_already_ends_the_bench(toy, tiny_checkpoint, here, monkeypatch):
    def same(path, source, rng):
        path.write_bytes(source.utterance.path.read_bytes())

    monkeypatch.setattr(bench_scale, "_write_copy", same)
    with pytest.raises(BenchError, match="instead of 6"):
        list(scale(read_corpus(toy), [1], tiny_checkpoint))
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--scale", "0", "1"], 2, "whole numbers from 1 on, got 0 1"),
        (["--scale", "1", "--quick"], 2, "leave these out"),
        (["--corpus", "x"], 1, "no corpus x"),
        (["--only", "encoder", "--corpus", "x"], 2, "and no other"),
        (["--checkpoint", "x", "--only", "page"], 2, "goes with --scale"),
    ],
)
def test_settings_that_make_no_sense_are_refused(toy, here, capsys, words, status, message):
    corpus = ["--corpus", str(toy)] if "--scale" in words else []
    assert main(["bench", *words, *corpus]) == status
    assert message in capsys.readouterr().err


def test_too_little_disk_is_said_before_anything_is_written(toy, tiny_checkpoint, here, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "free")(1 << 20))
    words = ["--corpus", str(toy), "--checkpoint", str(tiny_checkpoint)]
    assert main(["bench", "--scale", "1000", *words]) == 1
    message = capsys.readouterr().err
    assert "1000x needs about 0.1 GiB" in message
    assert "TMPDIR" in message
    assert not list(here.iterdir())


def test_too_few_recordings_are_refused(tmp_path, here):
    write_voice(tmp_path / "a.wav", 0.5)
    (tmp_path / "metadata.csv").write_text("path,speaker,emotion\na.wav,s,anger\n")
    with pytest.raises(BenchError, match="at least 5"):
        list(scale(read_corpus(tmp_path), [1]))


def test_the_command_writes_figures_and_their_table_into_a_readme(
    toy, tiny_checkpoint, here, tmp_path, capsys
):
    out, readme = tmp_path / "scale.json", tmp_path / "README.md"
    words = ["--corpus", str(toy), "--checkpoint", str(tiny_checkpoint), "--out", str(out)]
    assert main(["bench", "--scale", "1", *words]) == 0
    printed = capsys.readouterr()
    assert "1x prediction: 6 utterances" in printed.err
    content = json.loads(out.read_text())
    assert content["before"]["cores"]
    readme.write_text(f"before\n{SCALE_BEGIN}\nold\n{SCALE_END}\nafter\n")
    assert main(["bench", "--table", str(out), "--readme", str(readme)]) == 0
    assert readme.read_text() == f"before\n{SCALE_BEGIN}\n{printed.out}\n{SCALE_END}\nafter\n"
    readme.write_text("no marks")
    assert main(["bench", "--table", str(out), "--readme", str(readme)]) == 2


def test_the_line_goes_on_from_the_largest_scale():
    rows = [Measured("training", n, 10 * n, 0.1 * n, s, s / 2, mib) for n, s, mib in
            ((1, 9.0, 100.0), (10, 20.0, 300.0), (100, 100.0, 309.0))]  # fmt: skip
    line = extrapolated(rows, "training")
    assert line["extrapolated"]
    assert line["seconds"] == 10_000  # 10 s an hour
    assert line["cpu_s_per_hour"] == 5
    assert line["peak_mib"] == 309 + 990  # 1 MiB an hour
    assert extrapolated(rows[:2], "training")["peak_mib"] is None  # buffers may have filled between the two


def test_the_table_shows_what_is_missing_and_marks_what_is_extrapolated():
    rows = [Measured("training", 1, 10, 0.3, 9.0, 4.5, 100.0), Measured("training", 10, 100, 3.0, 90.0, 45.0, 100.0),
            Measured("prediction", 1, 10, 0.3, 9.0, 4.5, 200.0)]  # fmt: skip
    machine = {"cpu": "a CPU", "cores": 2, "threads": 1, "load_average": [0.5, 0.4, 0.3]}
    content = {"before": machine, "after": machine | {"load_average": None}, "scale": {
        "corpus": "toy", "utterances": 10, "disk": [], "rows": [row.to_dict() for row in rows],
        "extrapolated": [extrapolated(rows, work) for work in ("training", "prediction")],
    }}  # fmt: skip
    text = scale_table(content)
    assert (
        "| work | 1x: 10 clips, 0.3 h | 10x: 100 clips, 3 h | an hour of audio | *1,000 h, extrapolated* |"
        in text
    )
    assert "| 9.0 s, 100 MiB | 90.0 s, 100 MiB | 30.0 s, 15.0 s of CPU | *8.3 h* |" in text
    assert "| 9.0 s, 200 MiB | - |" in text
    assert "load average 0.5 before and unknown after" in text


def test_the_peak_of_a_process_is_its_own():
    ballast = b"x" * (400 << 20)
    code = "from ser.bench_memory import peak_bytes; print(peak_bytes())"
    child = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT).stdout
    )
    assert child < len(ballast) < peak_bytes()


@pytest.mark.slow
def test_works_run_in_processes_of_their_own(toy, tiny_checkpoint):
    *_, content = scale(read_corpus(toy), [1], tiny_checkpoint)
    assert len(content["rows"]) == len(WORKS)
    assert all(50 < row["peak_mib"] < 3000 for row in content["rows"])


@pytest.mark.skipif(not FIGURES.exists(), reason="no figures are kept in this tree")
def test_the_readme_s_table_is_that_of_the_kept_figures():
    assert scale_table(json.loads(FIGURES.read_text())) in (ROOT / "README.md").read_text(encoding="utf-8")
