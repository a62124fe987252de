"""The report names every recording that is left out, with the reason, and leaves out no other."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import RATE_HZ, voice, write_voice

from ser.cli import main
from ser.corpora.checks import RULES, count_clipped
from ser.corpora.corpus import Corpus, read_corpus
from ser.corpora.inspect import CorpusReport, inspect_corpus, usable
from ser.errors import CorpusError
from ser.reporting.corpus_report import report_page, report_text

GOOD = ("F01A01", "F01N01", "F02A01", "M01A01", "M01N01")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five good recordings named as ShEMO's."""
    for seed, name in enumerate(GOOD):
        write_voice(tmp_path / f"{name}.wav", 0.3 + 0.1 * seed, seed=seed)
    return tmp_path


def problems(report: CorpusReport) -> dict[str, str]:
    return {problem.file: problem.kind for problem in report.problems}


def inspected(folder: Path) -> tuple[Corpus, CorpusReport]:
    corpus = read_corpus(folder)
    return corpus, inspect_corpus(corpus)


def write(path: Path, samples, rate_hz: int = RATE_HZ, **options) -> None:
    soundfile.write(path, np.asarray(samples, dtype=np.float32), rate_hz, **options)


def cut(path: Path) -> None:
    write_voice(path, 1.0)
    path.write_bytes(path.read_bytes()[:9000])


DEFECTS = {
    "unreadable": lambda path: path.write_bytes(b"this is no sound at all, just text"),
    "zero length": lambda path: write(path, []),
    "silent": lambda path: write(path, np.zeros(RATE_HZ)),
    "too short": lambda path: write(path, voice(0.05)),
    "not numbers": lambda path: write(path, [0.1, np.nan] * RATE_HZ, subtype="FLOAT"),
    "clipped": lambda path: write(path, np.clip(30 * voice(0.5, seed=9), -1, 1)),
}


def test_a_corpus_without_faults_is_counted_and_kept_whole(folder: Path):
    write_voice(folder / "F02S01.wav", 0.9, rate_hz=44_100, seed=8)
    corpus, report = inspected(folder)
    assert not report.problems
    assert (report.n_found, report.n_usable) == (6, 6)
    assert report.hours == pytest.approx((0.3 + 0.4 + 0.5 + 0.6 + 0.7 + 0.9) / 3600)
    assert report.sample_rates == {16_000: 5, 44_100: 1}
    anger, neutral, sadness = report.emotions
    assert (anger.emotion, anger.n, anger.share, anger.n_speakers) == ("anger", 3, 0.5, 3)
    assert anger.by_gender == {"female": 2, "male": 1}
    assert anger.by_speaker == {"F01": 1, "F02": 1, "M01": 1}
    assert neutral.mean_s == pytest.approx(0.55)
    assert sadness.level_db == pytest.approx(
        20 * np.log10(np.sqrt(np.mean(voice(0.9, 44_100, 8) ** 2))), abs=0.1
    )
    assert report.speakers == {"F01": "female", "F02": "female", "M01": "male"}
    assert usable(corpus, report) == corpus


@pytest.mark.parametrize("kind", DEFECTS)
def test_each_defect_is_named_and_treated_by_its_rule(folder: Path, kind: str):
    DEFECTS[kind](folder / "M02H01.wav")
    corpus, report = inspected(folder)
    [problem] = report.problems
    assert (problem.file, problem.kind, problem.dropped) == ("M02H01.wav", kind, RULES[kind][0])
    assert problem.reason
    assert len(usable(corpus, report).utterances) == len(GOOD) + (not problem.dropped)
    assert report.n_usable == len(usable(corpus, report).utterances)


def test_a_recording_that_was_cut_off_is_left_out(folder: Path):
    cut(folder / "M02H01.wav")
    assert problems(inspected(folder)[1]) == {"M02H01.wav": "unreadable"}


def test_a_zero_byte_file_has_zero_length(folder: Path):
    (folder / "M02H01.wav").touch()
    assert problems(inspected(folder)[1]) == {"M02H01.wav": "zero length"}


@pytest.mark.parametrize(
    ("samples", "kind"),
    [(np.full(RATE_HZ, 0.3), "silent"), (np.where(np.arange(RATE_HZ) == 500, 1e10, voice()), "unreadable")],
    ids=["a constant offset", "one absurd sample"],
)
def test_what_the_loader_would_refuse_is_left_out(folder: Path, samples, kind: str):
    write(folder / "M02H01.wav", samples, subtype="FLOAT")
    assert problems(inspected(folder)[1]) == {"M02H01.wav": kind}


def test_full_scale_alone_is_no_clipping():
    wave = voice(1.0)
    assert count_clipped(wave / np.abs(wave).max()) == 0
    assert count_clipped(np.clip(4 * wave / np.abs(wave).max(), -1, 1)) > 100
    assert count_clipped(np.array([0, 1, 1, 1, -1, -1, 0], dtype=np.float32)) == 3
    assert count_clipped(np.zeros(10, dtype=np.float32)) == 0


def test_of_two_equal_recordings_with_one_label_the_first_stays(folder: Path):
    samples, rate_hz = soundfile.read(folder / "F01A01.wav")
    soundfile.write(folder / "F02A07.flac", samples, rate_hz)  # the same sound in another container
    corpus, report = inspected(folder)
    assert problems(report) == {"F02A07.flac": "duplicate"}
    assert report.problems[0].reason == "the same sound as F01A01.wav, there of speaker F01"
    assert len(usable(corpus, report).utterances) == len(GOOD)


def test_of_equal_recordings_with_different_labels_none_stays(folder: Path):
    (folder / "M02H01.wav").write_bytes((folder / "F01A01.wav").read_bytes())
    corpus, report = inspected(folder)
    kind = "duplicate, other label"
    assert problems(report) == {"F01A01.wav": kind, "M02H01.wav": kind}
    assert "F01A01.wav (anger), M02H01.wav (happiness)" in report.problems[0].reason
    assert len(usable(corpus, report).utterances) == len(GOOD) - 1


def test_a_label_that_contradicts_the_file_name_is_told_and_kept(folder: Path):
    (folder / "shemo.json").write_text(json.dumps([{"id": "F01A01", "emotion": "sad"}]))
    corpus, report = inspected(folder)
    assert problems(report) == {"F01A01.wav": "label contradicts name"}
    assert report.problems[0].reason == "its name says anger, its label sadness"
    assert len(usable(corpus, report).utterances) == len(GOOD)


def test_a_table_is_checked_against_names_that_it_agrees_with_elsewhere(folder: Path):
    rows = [f"{name}.wav,{name[:3]},{'anger' if name[3] == 'A' else 'neutral'}" for name in GOOD[:-1]]
    text = "\n".join(["path,speaker,emotion", *rows, "M01N01.wav,M01,fear"])
    (folder / "metadata.csv").write_text(text)
    assert problems(inspected(folder)[1]) == {"M01N01.wav": "label contradicts name"}


def test_a_word_in_the_name_is_checked_too(tmp_path: Path):
    for seed, name in enumerate(("a_happy_1", "a_sad_2")):
        write_voice(tmp_path / f"{name}.wav", 0.3, seed=seed)
    (tmp_path / "metadata.csv").write_text(
        "path,speaker,emotion\na_happy_1.wav,a,fear\na_sad_2.wav,a,sadness\n"
    )
    assert problems(inspected(tmp_path)[1]) == {"a_happy_1.wav": "label contradicts name"}


def test_letters_and_folders_of_urdu_are_compared(tmp_path: Path):
    (tmp_path / "Angry").mkdir()
    for seed, name in enumerate(("SM1_F1_A01", "SM1_F2_S02")):
        write_voice(tmp_path / "Angry" / f"{name}.wav", 0.3, seed=seed)
    assert problems(inspected(tmp_path)[1]) == {"Angry/SM1_F2_S02.wav": "label contradicts name"}


def test_a_speaker_under_two_genders_is_told_and_kept(folder: Path):
    for name in GOOD:
        target = folder / ("male" if name == "F01N01" else "female" if name[0] == "F" else "male")
        target.mkdir(exist_ok=True)
        (folder / f"{name}.wav").rename(target / f"{name}.wav")
    write_voice(folder / "female" / "F01S01.wav", 0.4, seed=9)
    corpus, report = inspected(folder)
    assert problems(report) == {"male/F01N01.wav": "two genders"}
    assert report.problems[0].reason == "speaker F01 is male here and female in 2 other recordings"
    assert len(usable(corpus, report).utterances) == len(GOOD) + 1


def test_files_that_no_reader_takes_and_files_that_are_missing_are_told(folder: Path):
    write_voice(folder / "notes.wav")
    assert problems(inspected(folder)[1]) == {"notes.wav": "not recognised"}
    (folder / "list.csv").write_text("path,speaker,emotion\nF01A01.wav,F01,anger\ngone.wav,F01,fear\n")
    corpus = read_corpus(folder / "list.csv")
    for decode in (True, False):
        found = problems(inspect_corpus(corpus, decode))
        assert found.pop("gone.wav") == "missing"
        assert set(found.values()) == {"not recognised"}


def test_without_decoding_only_names_and_labels_are_looked_at(folder: Path):
    DEFECTS["silent"](folder / "M02H01.wav")
    report = inspect_corpus(read_corpus(folder), decode=False)
    assert not report.problems
    assert report.hours is None
    assert not report.sample_rates
    assert "The sound was not looked at" in report_text(report)


def test_what_gives_the_emotion_away_is_remarked(tmp_path: Path):
    for number, letter in enumerate("AANNSS"):
        gain = {"A": 1.0, "N": 0.3, "S": 0.05}[letter]
        samples = np.concatenate([gain * voice(0.5, seed=number), np.zeros(RATE_HZ // 2)])
        write(tmp_path / f"M{number:02d}{letter}01.wav", samples)
    remarks = " ".join(inspected(tmp_path)[1].remarks)
    assert "6 of 6 speakers have a single emotion" in remarks
    assert "All recordings last exactly 1.000 s" in remarks
    assert "6 recordings end in over 0.2 s of silence" in remarks
    assert "loudness may give the emotion away" in remarks
    assert "anger (2)" in remarks


def test_a_report_of_another_corpus_is_refused(folder: Path):
    corpus, report = inspected(folder)
    with pytest.raises(CorpusError, match="not of this corpus"):
        usable(replace(corpus, utterances=corpus.utterances[1:]), report)


def test_a_corpus_of_broken_files_has_nothing_usable(tmp_path: Path):
    (tmp_path / "F01A01.wav").touch()
    corpus, report = inspected(tmp_path)
    assert "0 usable" in report_text(report)
    report_page(report)
    with pytest.raises(CorpusError, match="None of the 1 recordings of ShEMO can be used"):
        usable(corpus, report)


def test_progress_is_told_after_each_recording(folder: Path):
    seen: list[tuple[int, int]] = []
    inspect_corpus(read_corpus(folder), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 5) for number in range(1, 6)]


def test_the_json_holds_the_report_and_its_rules(folder: Path):
    DEFECTS["silent"](folder / "M02H01.wav")
    content = json.loads(inspected(folder)[1].to_json())
    assert content["problems"][0]["file"] == "M02H01.wav"
    assert content["rules"]["silent"]["dropped"] is True
    assert content["rules"]["clipped"]["dropped"] is False
    assert content["emotions"][0]["by_speaker"] == {"F01": 1, "F02": 1, "M01": 1}


def test_the_page_needs_no_network_and_shows_names_as_they_are(folder: Path):
    (folder / "M01<img src=x>.wav").touch()
    html = report_page(inspected(folder)[1])
    assert "<img src=x>" not in html
    assert "M01&lt;img src=x&gt;.wav" in html
    assert not re.search(
        r"<(script|link|img|iframe)[^>]+(src|href)=", re.sub(r"(?s)<script>.*?</script>", "", html)
    )
    assert "default-src 'none'" in html


def test_names_that_are_no_utf_8_can_be_reported(tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"corpus\xff")  # a corpus in a table goes by its folder's name
    folder.mkdir()
    sound = write_voice(tmp_path / "sound.wav").read_bytes()
    for name in ("1.wav", os.fsdecode(b"\xff.wav")):
        (folder / name).write_bytes(sound)
    (folder / "metadata.csv").write_text("path,speaker,emotion\n1.wav,A,anger\n")
    report = inspected(folder)[1]
    for text in (report_text(report), report.to_json(), report_page(report)):
        text.encode("utf-8")
        assert "udcff.wav" in text


def test_the_command_prints_the_report_and_writes_both_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    DEFECTS["silent"](folder / "M02H01.wav")
    out = {name: folder.parent / f"{folder.name}.{name}" for name in ("json", "html")}
    assert main(["corpus", str(folder), "--json", str(out["json"]), "--html", str(out["html"])]) == 0
    text = capsys.readouterr().out
    assert "6 recordings, 5 usable, of 3 speakers and 2 emotions" in text
    assert "silent: 1, left out" in text
    assert "M02H01.wav" in text
    assert json.loads(out["json"].read_text())["n_usable"] == 5
    assert "<html" in out["html"].read_text()


def test_the_command_says_in_one_line_why_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["corpus", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("ser: There are no recordings below")


def test_the_identical_pair_of_ravdess_is_found(shared_data):
    corpus = read_corpus(shared_data("ravdess"))
    pair = tuple(
        one for one in corpus.utterances if one.path.stem[:13] == "03-01-03-01-0" and one.speaker == "07"
    )
    report = inspect_corpus(replace(corpus, utterances=pair))
    assert problems(report) == {"Actor_07/03-01-03-01-02-02-07.flac": "duplicate"}
