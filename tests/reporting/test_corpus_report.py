"""The report names every recording that is left out, with the reason, and leaves out no other."""

from __future__ import annotations

import json
import os
import re
import shutil
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


def of_one(report: CorpusReport) -> tuple[str, str, str]:
    [problem] = report.problems
    return problem.file, problem.kind, problem.reason


def inspected(folder: Path) -> tuple[Corpus, CorpusReport]:
    corpus = read_corpus(folder)
    return corpus, inspect_corpus(corpus)


def write(path: Path, samples, rate_hz: int = RATE_HZ, **options) -> None:
    soundfile.write(path, np.asarray(samples, dtype=np.float32), rate_hz, **options)


def cut(path: Path) -> None:
    write_voice(path, 1.0)
    path.write_bytes(path.read_bytes()[:9000])


def voices(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        write_voice(folder / f"{name}.wav", 0.3, seed=seed)
    return folder


def table(folder: Path, *rows: str) -> None:
    (folder / "metadata.csv").write_text("\n".join(["path,speaker,emotion", *rows]) + "\n")


DEFECTS = {
    "unreadable": lambda path: path.write_bytes(b"this is no sound at all, just text"),
    "cut off: unreadable": cut,
    "zero length": lambda path: write(path, []),
    "no bytes: zero length": Path.touch,
    "silent": lambda path: write(path, np.zeros(RATE_HZ)),
    "too short": lambda path: write(path, voice(0.05)),
    "not numbers": lambda path: write(path, [0.1, np.nan] * RATE_HZ, subtype="FLOAT"),
    "clipped": lambda path: write(path, np.clip(30 * voice(0.5, seed=9), -1, 1)),
}


def test_a_corpus_without_faults_is_counted_and_kept_whole(folder):
    write_voice(folder / "F02S01.wav", 0.9, rate_hz=44_100, seed=8)
    seen: list[tuple[int, int]] = []
    corpus = read_corpus(folder)
    report = inspect_corpus(corpus, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]
    assert (report.problems, report.n_found, report.n_usable) == ((), 6, 6)
    assert report.hours == pytest.approx((0.3 + 0.4 + 0.5 + 0.6 + 0.7 + 0.9) / 3600)
    assert report.sample_rates == {16_000: 5, 44_100: 1}
    anger, neutral, sadness = report.emotions
    assert (anger.emotion, anger.n, anger.share, anger.n_speakers) == ("anger", 3, 0.5, 3)
    assert anger.by_gender == {"female": 2, "male": 1}
    assert anger.by_speaker == {"F01": 1, "F02": 1, "M01": 1}
    assert neutral.mean_s == pytest.approx(0.55)
    level_db = 10 * np.log10(np.mean(voice(0.9, 44_100, 8) ** 2))
    assert sadness.level_db == pytest.approx(level_db, abs=0.1)
    assert report.speakers == {"F01": "female", "F02": "female", "M01": "male"}
    assert usable(corpus, report) == corpus
    with pytest.raises(CorpusError, match="not of this corpus"):
        usable(replace(corpus, utterances=corpus.utterances[1:]), report)


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_named_and_treated_by_its_rule(folder, defect):
    DEFECTS[defect](folder / "M02H01.wav")
    kind = defect.split(": ")[-1]
    corpus, report = inspected(folder)
    [problem] = report.problems
    assert (problem.file, problem.kind, problem.dropped) == ("M02H01.wav", kind, RULES[kind][0])
    assert problem.reason
    assert len(usable(corpus, report).utterances) == len(GOOD) + (not problem.dropped) == report.n_usable


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


def test_of_two_equal_recordings_with_one_label_the_first_stays(folder):
    samples, rate_hz = soundfile.read(folder / "F01A01.wav")
    soundfile.write(folder / "F02A07.flac", samples, rate_hz)  # the same sound in another container
    corpus, report = inspected(folder)
    assert of_one(report) == ("F02A07.flac", "duplicate", "the same sound as F01A01.wav, there of speaker F01")
    assert len(usable(corpus, report).utterances) == len(GOOD)


def test_of_equal_recordings_with_different_labels_none_stays(folder):
    (folder / "M02H01.wav").write_bytes((folder / "F01A01.wav").read_bytes())
    corpus, report = inspected(folder)
    kind = "duplicate, other label"
    assert problems(report) == {"F01A01.wav": kind, "M02H01.wav": kind}
    assert "F01A01.wav (anger), M02H01.wav (happiness)" in report.problems[0].reason
    assert len(usable(corpus, report).utterances) == len(GOOD) - 1


def test_a_label_that_contradicts_the_file_name_is_told_and_kept(folder):
    (folder / "shemo.json").write_text(json.dumps([{"id": "F01A01", "emotion": "sad"}]))
    corpus, report = inspected(folder)
    reason = "its name says anger, its label sadness"
    assert of_one(report) == ("F01A01.wav", "label contradicts name", reason)
    assert len(usable(corpus, report).utterances) == len(GOOD)


def test_a_table_is_checked_against_names_that_it_agrees_with_elsewhere(folder, tmp_path):
    rows = [f"{name}.wav,{name[:3]},{'anger' if name[3] == 'A' else 'neutral'}" for name in GOOD[:-1]]
    table(folder, *rows, "M01N01.wav,M01,fear")
    assert problems(inspected(folder)[1]) == {"M01N01.wav": "label contradicts name"}
    words, urdu = tmp_path / "words", tmp_path / "urdu" / "Angry"
    for path in (words, urdu):
        path.mkdir(parents=True)
    table(voices(words, "a_happy_1", "a_sad_2"), "a_happy_1.wav,a,fear", "a_sad_2.wav,a,sadness")
    assert problems(inspected(words)[1]) == {"a_happy_1.wav": "label contradicts name"}
    voices(urdu, "SM1_F1_A01", "SM1_F2_S02")  # letters and folders are compared
    assert problems(inspected(urdu.parent)[1]) == {"Angry/SM1_F2_S02.wav": "label contradicts name"}


def test_a_speaker_under_two_genders_is_told_and_kept(folder):
    write_voice(folder / "F01S01.wav", 0.4, seed=9)
    for name in (*GOOD, "F01S01"):
        target = folder / ("male" if name == "F01N01" or name[0] == "M" else "female")
        target.mkdir(exist_ok=True)
        (folder / f"{name}.wav").rename(target / f"{name}.wav")
    corpus, report = inspected(folder)
    reason = "speaker F01 is male here and female in 2 other recordings"
    assert of_one(report) == ("male/F01N01.wav", "two genders", reason)
    assert len(usable(corpus, report).utterances) == len(GOOD) + 1


def test_files_that_no_reader_takes_and_files_that_are_missing_are_told(folder):
    write_voice(folder / "notes.wav")
    assert problems(inspected(folder)[1]) == {"notes.wav": "not recognised"}
    (folder / "list.csv").write_text("path,speaker,emotion\nF01A01.wav,F01,anger\ngone.wav,F01,fear\n")
    corpus = read_corpus(folder / "list.csv")
    for decode in (True, False):
        found = problems(inspect_corpus(corpus, decode))
        assert found.pop("gone.wav") == "missing"
        assert set(found.values()) == {"not recognised"}


def test_without_decoding_only_names_and_labels_are_looked_at(folder):
    DEFECTS["silent"](folder / "M02H01.wav")
    report = inspect_corpus(read_corpus(folder), decode=False)
    assert (report.problems, report.hours, report.sample_rates) == ((), None, {})
    assert "The sound was not looked at" in report_text(report)


def test_what_gives_the_emotion_away_is_remarked(tmp_path):
    for number, letter in enumerate("AANNSS"):
        gain = {"A": 1.0, "N": 0.3, "S": 0.05}[letter]
        samples = np.concatenate([gain * voice(0.5, seed=number), np.zeros(RATE_HZ // 2)])
        write(tmp_path / f"M{number:02d}{letter}01.wav", samples)
    remarks = " ".join(inspected(tmp_path)[1].remarks)
    for words in ("6 of 6 speakers have a single emotion", "All recordings last exactly 1.000 s", "anger (2)",
                  "6 recordings end in over 0.2 s of silence", "loudness may give the emotion away"):  # fmt: skip
        assert words in remarks


def test_a_corpus_of_broken_files_has_nothing_usable(tmp_path):
    (tmp_path / "F01A01.wav").touch()
    corpus, report = inspected(tmp_path)
    assert "0 usable" in report_text(report)
    report_page(report)
    with pytest.raises(CorpusError, match="None of the 1 recordings of ShEMO can be used"):
        usable(corpus, report)


def test_the_page_needs_no_network_and_shows_names_as_they_are(folder):
    (folder / "M01<img src=x>.wav").touch()
    html = report_page(inspected(folder)[1])
    assert "<img src=x>" not in html
    assert "M01&lt;img src=x&gt;.wav" in html
    outside = re.sub(r"(?s)<script>.*?</script>", "", html)
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", outside)
    assert "default-src 'none'" in html


def test_names_that_are_no_utf_8_can_be_reported(tmp_path):
    plain = tmp_path / "corpus"
    plain.mkdir()
    table(voices(plain, "1"), "1.wav,A,anger")
    shutil.copy(plain / "1.wav", plain / os.fsdecode(b"\xff.wav"))
    folder = plain.rename(tmp_path / os.fsdecode(b"corpus\xff"))  # a corpus in a table goes by its folder's name
    report = inspected(folder)[1]
    for text in (report_text(report), report.to_json(), report_page(report)):
        text.encode("utf-8")
        assert "udcff.wav" in text


def test_the_command_prints_the_report_and_writes_both_files(folder, tmp_path_factory, capsys):
    DEFECTS["silent"](folder / "M02H01.wav")
    out = tmp_path_factory.mktemp("out")
    assert main(["corpus", str(folder), "--out", str(out / "json"), "--html", str(out / "html")]) == 0
    text = capsys.readouterr().out
    for words in ("6 recordings, 5 usable, of 3 speakers and 2 emotions", "silent: 1, left out", "M02H01.wav"):
        assert words in text
    assert "<html" in (out / "html").read_text()
    content = json.loads((out / "json").read_text())
    assert (content["n_usable"], content["problems"][0]["file"]) == (5, "M02H01.wav")
    assert [content["rules"][kind]["dropped"] for kind in ("silent", "clipped")] == [True, False]
    assert content["emotions"][0]["by_speaker"] == {"F01": 1, "F02": 1, "M01": 1}
    assert main(["corpus", str(tmp_path_factory.mktemp("empty"))]) == 1
    assert capsys.readouterr().err.startswith("ser: There are no recordings below")


def test_the_identical_pair_of_ravdess_is_found(shared_data):
    corpus = read_corpus(shared_data("ravdess"))
    of_7 = [one for one in corpus.utterances if one.speaker == "07"]
    pair = tuple(one for one in of_7 if one.path.stem.startswith("03-01-03-01-0"))
    report = inspect_corpus(replace(corpus, utterances=pair))
    assert problems(report) == {"Actor_07/03-01-03-01-02-02-07.flac": "duplicate"}
