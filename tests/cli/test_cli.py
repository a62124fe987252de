"""The command line answers, goes on after a bad file, takes up where it was killed, shows no traceback."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT, write_voice

from ser.classifier.checkpoint import read_description
from ser.cli import main
from ser.errors import SerError, SettingsError
from ser.inference.output_files import JsonLines, ResultFile, Table
from ser.inference.recogniser import Prediction
from ser.labels import EMOTIONS

Predict = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Predict:
    """`predict(*words)` runs the command: exit status, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["predict", "--checkpoint", str(tiny_checkpoint), *map(str, words)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with five recordings in two levels, two broken ones, and what is no recording."""
    folder = tmp_path / "clips"
    (folder / "inner").mkdir(parents=True)
    for seed, name in enumerate(("c.wav", "a.flac", "inner/b, with comma.ogg", "inner/د.wav", "e.wav")):
        write_voice(folder / name, 0.5, seed=seed)
    (folder / "broken.wav").write_bytes(b"RIFF this is no sound")
    (folder / "d.mp3").write_bytes(b"")
    (folder / "notes.txt").write_text("not a recording")
    (folder / "._a.wav").write_bytes(b"metadata of a Mac")
    return folder


GOOD = ["a.flac", "c.wav", "e.wav", "inner/b, with comma.ogg", "inner/د.wav"]


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_is_one_object_a_line_with_the_promised_entries(predict, tmp_path):
    paths = [write_voice(tmp_path / f"{seed}.wav", 0.5 + seed, seed=seed) for seed in range(2)]
    status, out, err = predict("--json", *paths)
    assert (status, err) == (0, "")
    for seed, (path, result) in enumerate(zip(paths, json_lines(out), strict=True)):
        assert (result["file"], result["duration_s"]) == (str(path), 0.5 + seed)
        assert result["emotion"] in EMOTIONS
        assert list(result["probabilities"]) == list(EMOTIONS)
        assert isinstance(result["confident"], bool)
        assert "timeline" not in result


def test_the_timeline_is_there_when_asked_for(predict, tmp_path):
    path = write_voice(tmp_path / "clip.wav", 3.0)
    _, out, _ = predict("--json", "--timeline", path)
    first, second, *_ = (window["start_s"] for window in json_lines(out)[0]["timeline"])
    assert 0 <= first < 0.1
    assert second - first == pytest.approx(0.5)
    _, out, _ = predict("--timeline", path)
    assert len(out.splitlines()) == 4


def test_people_get_a_line_a_file(predict, clips):
    status, out, err = predict(clips)
    assert status == 1  # two are broken
    assert [line.split(":")[0] for line in out.splitlines()] == [str(clips / name) for name in GOOD]
    assert all("%" in line and "0.5 s" in line for line in out.splitlines())
    broken = [str(clips / name) for name in ("broken.wav", "d.mp3")]
    assert [line.split(":")[1].strip() for line in err.splitlines()] == broken
    assert "Traceback" not in err
    status, out, err = predict("--debug", clips)
    assert (status, len(out.splitlines())) == (1, len(GOOD))
    assert "Traceback" in err
    with pytest.raises(SerError):
        predict("--debug", "--csv", clips / "notes.txt", clips)


def test_several_processes_answer_as_one_does_in_the_same_order(predict, clips, monkeypatch):
    monkeypatch.chdir(clips.parent)
    alone, together = (predict("--json", "--processes", n, clips.name) for n in ("1", "2"))
    assert together[0] == alone[0] == 1
    bad = [[line.split(": ")[1] for line in one[2].splitlines()] for one in (alone, together)]
    assert bad[0] == bad[1]
    for ours, theirs in zip(json_lines(together[1]), json_lines(alone[1]), strict=True):
        assert ours["file"] == theirs["file"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-5)


def test_what_a_folder_holds_and_is_not_answered_is_said(predict, clips):
    for name in ("one.xyz", "two.xyz", "no suffix"):
        (clips / name).write_bytes(b"a recording, perhaps")
    (clips / "other disk").symlink_to("/nonexistent/place")
    status, out, err = predict(clips / "inner", clips)
    assert (status, len(out.splitlines())) == (1, len(GOOD))
    assert f"note: {clips}: 3 files are no recordings by their suffix: .xyz 2, no suffix 1.\n" in err
    assert f"ser: {clips / 'other disk'}: {clips / 'other disk'} is not there" in err
    assert err.count("note: ") == 1


def test_a_file_named_twice_is_answered_once_and_a_missing_path_is_said(predict, clips):
    status, out, err = predict("--json", clips / "a.flac", clips / "nowhere.wav", clips / "a.flac")
    assert (status, len(json_lines(out))) == (1, 1)
    assert err == f"ser: There is no file {clips / 'nowhere.wav'}. Check the path.\n"


def test_nothing_to_do_and_what_cannot_be_done_is_one_line(predict, capsys, clips, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert predict(tmp_path / "nothing")[0] == 1
    assert predict(empty) == (1, "", f"ser: There are no recordings in {empty}. Check the path.\n")
    status, _, err = predict("--max-duration", "1", write_voice(tmp_path / "clip.wav", 2.0))
    assert (status, "limit is 1 s" in err) == (1, True)
    status, _, err = predict("--csv", tmp_path / "nowhere" / "out.csv", clips)
    assert (status, "cannot be written" in err) == (1, True)
    assert main(["predict", "--checkpoint", str(tmp_path), str(clips)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_bad_options_are_bad_usage(predict, clips, tmp_path):
    for words in (["--processes", "0"], ["--max-duration", "long"], ["--what"]):
        with pytest.raises(SystemExit, match=r"^2$"):
            predict(*words, clips)
    for words in (["--csv", tmp_path / "out.csv", "--timeline"], ["--max-duration", "-1"]):
        assert predict(*words, clips)[0] == 2


def test_remarks_of_the_mp3_decoder_stay_off_standard_error(tiny_checkpoint, tmp_path, capfd):
    path = write_voice(tmp_path / "cut.mp3", 5.0)
    path.write_bytes(path.read_bytes()[:8_000])
    capfd.readouterr()
    assert main(["predict", "--checkpoint", str(tiny_checkpoint), str(path)]) == 1
    err = capfd.readouterr().err
    assert [line[:5] for line in err.splitlines()] == ["ser: "], err


def test_an_unforeseen_failure_of_one_file_does_not_stop_the_others(predict, clips, monkeypatch):
    from ser.inference.recogniser import Recogniser

    answer = Recogniser.__call__

    def fail_once(self: Recogniser, recording: Path, **options: object) -> object:
        if recording.name == "c.wav":
            raise RuntimeError("out of\nluck")
        return answer(self, recording, **options)

    monkeypatch.setattr(Recogniser, "__call__", fail_once)
    status, out, err = predict("--json", clips)
    assert (status, len(json_lines(out))) == (1, len(GOOD) - 1)
    assert f"ser: {clips / 'c.wav'}: RuntimeError: out of luck\n" in err


def test_a_table_has_a_row_for_each_recording_and_the_same_numbers(predict, clips, tmp_path):
    out = tmp_path / "out.csv"
    status, printed, _ = predict("--csv", out, clips)
    assert (status, printed) == (1, "")
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [row["file"] for row in rows] == [str(clips / name) for name in GOOD]
    result = json_lines(predict("--json", clips / "c.wav")[1])[0]
    assert {label: float(rows[1][label]) for label in EMOTIONS} == result["probabilities"]
    assert rows[1]["confident"] == str(result["confident"]).lower()
    assert list(rows[0]) == ["file", "emotion", "confident", "duration_s", "model", *EMOTIONS]


def test_a_name_that_is_no_utf_8_leaves_files_that_are(predict, tmp_path):
    clip = write_voice(tmp_path / "clip.wav", 0.5).rename(tmp_path / os.fsdecode(b"\xff\xe4.wav"))
    table, lines = tmp_path / "out.csv", tmp_path / "out.jsonl"
    for _ in range(2):  # the second time it is known
        assert predict("--csv", table, "--out", lines, clip)[0] == 0
    name = str(tmp_path / r"\udcff\udce4.wav")
    assert [row["file"] for row in csv.DictReader(table.open(encoding="utf-8"))] == [name]
    assert [line["file"] for line in json_lines(lines.read_text(encoding="utf-8"))] == [name]


@pytest.mark.parametrize("option", ["--csv", "--out"])
@pytest.mark.parametrize("n_cut", [0, 1, 7, 40, 150])
def test_a_second_run_repairs_a_half_written_end_and_adds_what_is_missing(predict, clips, tmp_path, option, n_cut):
    out = tmp_path / "out"

    def answers() -> list:  # the times that the steps took differ
        lines = out.read_text(encoding="utf-8").splitlines()
        return lines if option == "--csv" else [json.loads(line)["probabilities"] for line in lines]

    predict(option, out, clips)
    before, content = answers(), out.read_bytes()
    out.write_bytes(content[: len(content) - n_cut])
    status, _, err = predict(option, out, clips)
    assert status == 1  # the two bad files are tried again
    assert "5 recordings" in err
    assert answers() == before


def test_both_kinds_of_file_can_be_written_at_once_and_each_gets_what_it_lacks(predict, clips, tmp_path):
    table, lines = tmp_path / "out.csv", tmp_path / "out.jsonl"
    predict("--csv", table, clips / "a.flac")
    predict("--csv", table, "--out", lines, clips)
    assert len(table.read_text().splitlines()) == 1 + len(GOOD)
    assert sorted(line["file"] for line in json_lines(lines.read_text())) == [str(clips / name) for name in GOOD]


@pytest.mark.slow
def test_a_killed_run_loses_nothing_and_is_taken_up(predict, tiny_checkpoint, tmp_path):
    folder, out = tmp_path / "many", tmp_path / "out.jsonl"
    folder.mkdir()
    names = [str(write_voice(folder / f"{seed:02}.wav", 5.0, seed=seed)) for seed in range(40)]
    run = subprocess.Popen(
        [sys.executable, "-m", "ser", "predict", str(folder), "--out", str(out),
         "--checkpoint", str(tiny_checkpoint)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while run.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 2):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    killed = out.read_bytes()
    assert predict("--out", out, folder)[0] == 0
    assert out.read_bytes().startswith(killed[: killed.rfind(b"\n") + 1])
    assert [line["file"] for line in json_lines(out.read_text())] == names


@pytest.mark.parametrize("option", ["--csv", "--out"])
def test_a_file_that_holds_something_else_is_left_alone(predict, clips, option):
    path, joy = clips / "notes.txt", '{"file": "x", "probabilities": {"joy": 1}}\n'
    for content in ("my own notes\n", "file,emotion,confident,duration_s,joy\n", joy):
        path.write_text(content)
        status, _, err = predict(option, path, clips)
        assert (status, err.count("\n")) == (2, 1)
        assert path.read_text() == content


def test_two_runs_do_not_write_one_file_at_once(tmp_path):
    form = JsonLines(EMOTIONS, "m1")
    with ResultFile(tmp_path / "out", form), pytest.raises(SerError, match="another run"):
        ResultFile(tmp_path / "out", form)
    with ResultFile(tmp_path / "out", form):
        """Free again."""


def test_a_row_cut_inside_a_name_with_a_line_break_is_cut_off(tmp_path):
    path = tmp_path / "out.csv"
    header = Table(EMOTIONS, "m1").header
    path.write_text(header + '"one\nclip.wav",anger,true,1.0,m1,1,0,0,0,0,0\n"another\n')
    with ResultFile(path, Table(EMOTIONS, "m1")) as results:
        assert results.done == {"one\nclip.wav"}
    assert path.read_text().endswith("0,0\n")
    path.write_text(header + "a,b\n" + "x.wav,anger,true,1.0,m1,1,0,0,0,0,0\n")
    with pytest.raises(SettingsError, match="2 columns"):
        ResultFile(path, Table(EMOTIONS, "m1"))


@pytest.mark.parametrize("form", [Table, JsonLines])
def test_answers_of_two_models_never_mix_in_one_file(tmp_path, form):
    prediction = Prediction("a.wav", "anger", dict.fromkeys(EMOTIONS, 1 / 6), True, 1.0, (), None, {})
    with ResultFile(tmp_path / "out", form(EMOTIONS, "m1")) as results:
        results.write(prediction)
    before = (tmp_path / "out").read_bytes()
    with pytest.raises(SettingsError, match=r"of the model m1, this one is m2.*Name another file"):
        ResultFile(tmp_path / "out", form(EMOTIONS, "m2"))
    assert (tmp_path / "out").read_bytes() == before


def test_info_tells_versions_model_encoder_scores_and_data(tiny_checkpoint, capsys):
    assert main(["info"]) == 0
    data = read_description().data
    expected = f"on {data['name']} ({data['n_utterances']} utterances, {data['n_speakers']} speakers)"
    assert expected in capsys.readouterr().out
    assert main(["info", "--checkpoint", str(tiny_checkpoint)]) == 0
    text = capsys.readouterr().out
    for word in ("torch", "cpu_cores", "cache", "fingerprint", "wa 0.500 [0.400, 0.600]", "random weights"):
        assert word in text
    assert main(["info", "--json", "--checkpoint", str(tiny_checkpoint)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["encoder"]["problem"] is None
    assert content["model"]["labels"] == list(EMOTIONS)


def test_info_says_what_is_missing(tiny_checkpoint, tmp_path, capsys):
    assert main(["info", "--checkpoint", str(tmp_path)]) == 1
    assert "problem: There is no checkpoint" in capsys.readouterr().out
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_checkpoint / name).read_bytes())
    content = json.loads((tmp_path / "model.json").read_text())
    content["encoder"] |= {"source": "nobody/nothing", "fingerprint": "0" * 16}
    (tmp_path / "model.json").write_text(json.dumps(content))
    main(["info", "--json", "--checkpoint", str(tmp_path)])
    assert "hf download nobody/nothing" in json.loads(capsys.readouterr().out)["encoder"]["problem"]


def test_an_unforeseen_failure_is_one_line_and_a_traceback_only_with_debug(monkeypatch, capsys):
    def fail(args):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("ser.cli.info.run", fail)
    assert main(["info"]) == 1
    assert capsys.readouterr().err.startswith("ser: unexpected ZeroDivisionError: of ours")
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "info"])


THREADS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS")


WATCHED = """
import os, runpy, sys
names = sys.argv[1:]
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise SystemExit(" ".join(os.environ.get(name, "-") for name in names))
sys.meta_path.insert(0, Watch())
import app
assert not {"torch", "gradio"} & set(sys.modules)
sys.argv = ["ser", "info", "--debug"]
runpy.run_module("ser", run_name="__main__")
"""


@pytest.mark.parametrize(("already", "expected"), [({}, "PASSIVE 10000 1"), ({THREADS[0]: "ACTIVE"}, "ACTIVE - 1")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(already, expected):
    environment = {name: value for name, value in os.environ.items() if name not in THREADS} | already
    command = [sys.executable, "-c", WATCHED, *THREADS]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)
    assert done.stderr.splitlines()[-1] == expected
