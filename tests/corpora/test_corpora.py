"""Corpora are recognised by how they name their files, or read from a table; what is not read is named."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from support import write_voice

from ser.audio.find import contents
from ser.corpora.corpus import Corpus, facts, keep_emotions, read_corpora, read_corpus
from ser.corpora.readers import READERS
from ser.corpora.words import common_label, look_alikes, spelled_emotion
from ser.errors import CorpusError
from ser.labels import EMOTIONS

SHEMO = ("F03S02", "F03W11", "M03A01", "M03N101", "M12F01", "F14H09")
COLUMNS = "path,speaker,emotion"
ARABIC_YE, RIGHT_TO_LEFT, NO_JOIN = "\u064a", "\u200f", "\u200c"


def files(folder: Path, *names: str) -> Path:
    """Empty files: reading a corpus decodes nothing."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def table(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def listed(folder: Path, *rows: str, header: str = COLUMNS) -> Corpus:
    """A corpus of the files that the rows of a table begin with."""
    files(folder, *(row.split(",")[0] for row in rows))
    return read_corpus(table(folder / "list.csv", header, *rows))


def emotions_of(corpus: Corpus) -> dict[str, str]:
    return {utterance.path.stem: utterance.emotion for utterance in corpus.utterances}


@pytest.mark.parametrize("folders", [("", ""), ("female/", "male/"), ("ShEMO/female/", "ShEMO/male/")])
def test_shemo_is_read_flat_and_in_folders(tmp_path, folders):
    corpus = read_corpus(files(tmp_path, *(f"{folders[name[0] == 'M']}{name}.wav" for name in SHEMO)))
    assert (corpus.name, corpus.emotions) == ("ShEMO", EMOTIONS)
    assert emotions_of(corpus) == {
        "F03S02": "sadness", "F03W11": "surprise", "M03A01": "anger", "M03N101": "neutral", "M12F01": "fear",
        "F14H09": "happiness",
    }  # fmt: skip
    assert {one.speaker: one.gender for one in corpus.utterances}["M12"] == "male"
    assert {"F03", "M03"} < set(corpus.speakers)  # two people


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_official_label_file_of_shemo_counts_where_it_has_a_file(tmp_path, encoding):
    files(tmp_path, "female/F03S02.wav", "female/F03W11.wav")
    told = {"id": "F03S02", "gender": "female", "emotion": "angry", "transcript": "", "ipa": ""}
    (tmp_path / "shemo.json").write_text(json.dumps([told]), encoding=encoding)
    assert emotions_of(read_corpus(tmp_path)) == {"F03S02": "anger", "F03W11": "surprise"}
    (tmp_path / "shemo.json").write_text(json.dumps([told | {"emotion": None}]))
    with pytest.raises(CorpusError, match="the emotion of F03S02 is empty"):
        read_corpus(tmp_path)


def test_corrected_labels_come_from_a_csv_or_from_the_json_of_modified_shemo(tmp_path):
    folder, emodb = (files(tmp_path / "shemo", "F03S02.wav", "M03A01.wav"), files(tmp_path / "e", "03a01Fa.wav"))
    with pytest.raises(CorpusError, match="comes without corrected labels"):
        read_corpus(folder, labels="corrected")
    short = table(tmp_path / "short.csv", "file,emotion_modified", "F03S02.wav,anger")
    with pytest.raises(CorpusError, match=r"no label for 1 files of ShEMO, M03A01\.wav"):
        read_corpus(folder, labels="corrected", metadata=short)
    metadata = table(tmp_path / "labels.csv", "file,speaker,emotion,emotion_modified",
                     "F03S02.wav,F03,sadness,neutral", "M03A01.wav,M03,anger,anger")  # fmt: skip
    expected, original = {"F03S02": "neutral", "M03A01": "anger"}, {"F03S02": "sadness", "M03A01": "anger"}
    assert emotions_of(read_corpus(folder, labels="corrected", metadata=metadata)) == expected
    assert emotions_of(read_corpus(folder, metadata=metadata)) == original
    joined = read_corpora([folder, emodb], labels="corrected", metadata=metadata)
    assert emotions_of(joined) == expected | {"03a01Fa": "happiness"}  # they concern ShEMO alone
    modified = {f"{name}.wav": {"emotion": emotion} for name, emotion in expected.items()}
    (folder / "modified_shemo.json").write_text(json.dumps(modified))
    assert emotions_of(read_corpus(folder, labels="corrected")) == expected
    assert emotions_of(read_corpus(folder)) == original


@pytest.mark.parametrize(
    ("name", "file", "speaker", "emotion", "gender"),
    [
        ("EMO-DB", "wav/03a01Fa.wav", "03", "happiness", "male"),
        ("EMO-DB", "16b10Lb.wav", "16", "boredom", "female"),
        ("URDU", "Angry/SM1_F10_A010.flac", "SM1", "anger", "male"),
        ("URDU", "Sad/SF10_F2_S093.wav", "SF10", "sadness", "female"),
        ("RAVDESS", "Actor_02/03-01-08-01-02-01-02.wav", "02", "surprise", "female"),
        ("RAVDESS", "03-01-02-02-02-02-17.flac", "17", "calm", "male"),
    ],
)
def test_other_corpora_are_known_by_their_names(tmp_path, name, file, speaker, emotion, gender):
    files(tmp_path, file)
    for folder in (tmp_path, (tmp_path / file).parent):  # a folder of one emotion can be read alone
        corpus = read_corpus(folder)
        [one] = corpus.utterances
        assert (corpus.name, one.corpus, one.speaker, one.emotion, one.gender) == (
            name, name, speaker, emotion, gender,
        )  # fmt: skip


@pytest.mark.parametrize("suffix", [".aac", ".amr", ".mp4", ".WMA", ".weba", ".sph"])
def test_every_reader_reads_its_own_example_in_every_format(tmp_path, suffix):
    for reader in READERS:
        found = [one.name for one in READERS if one.pattern.fullmatch(reader.example.rsplit(".", 1)[0])]
        assert found == [reader.name]
    assert len(read_corpus(files(tmp_path, f"F03S02{suffix}")).utterances) == 1


def test_a_table_describes_any_layout_and_any_labels(tmp_path):
    files(tmp_path, "a/1.wav", "b c/2.ogg", "3.flac")
    table(tmp_path / "metadata.csv", "note,Speaker,PATH,emotion,gender", "x,Ayşe,a/1.wav,Öfke,F",
          'y,Can,"b c/2.ogg",Happy,male', "z,Can,3.flac,SURPRISE,")  # fmt: skip
    corpus = read_corpus(tmp_path)
    assert [(one.path.name, one.speaker, one.emotion, one.gender) for one in corpus.utterances] == [
        ("3.flac", "Can", "surprise", None), ("1.wav", "Ayşe", "Öfke", "female"), ("2.ogg", "Can", "happiness", "male"),
    ]  # fmt: skip
    assert (corpus.emotions, corpus.name) == (("happiness", "surprise", "Öfke"), tmp_path.name)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", ", "])
def test_tables_may_use_other_delimiters_other_names_quotes_and_a_byte_order_mark(tmp_path, delimiter):
    files(tmp_path, "1.wav")
    rows = 'file,"speaker_id","label"\n1.wav,"A","fear"\n'
    (tmp_path / "labels.csv").write_text(rows.replace(",", delimiter), encoding="utf-8-sig")
    corpus = read_corpus(tmp_path / "labels.csv")
    assert (corpus.speakers, corpus.emotions) == (("A",), ("fear",))


def test_a_table_may_name_files_that_lie_deeper_but_not_two_at_once(tmp_path):
    files(tmp_path, "female/F01A01.wav", "male/M01A01.wav", "x/1.wav", "y/1.wav")
    path = table(tmp_path / "list.csv", "file,speaker,emotion", "F01A01.wav,F01,anger", "M01A01,M01,anger")
    corpus = read_corpus(path)
    assert [corpus.file_of(one.path) for one in corpus.utterances] == ["female/F01A01.wav", "male/M01A01.wav"]
    with pytest.raises(CorpusError, match=r"1\.wav of the table may be .*x/1\.wav or .*y/1\.wav"):
        read_corpus(table(tmp_path / "list.csv", COLUMNS, "1.wav,A,anger"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "is empty"),
        ((COLUMNS,), "no line below its header"),
        (("path,emotion", "1.wav,anger"), "no column speaker or speaker_id; its columns are path, emotion"),
        ((COLUMNS, "1.wav,,anger"), "line 2: speaker is empty"),
        ((COLUMNS, "1.wav"), "line 2: speaker, emotion is empty"),
        ((COLUMNS, "1.wav,A,nan"), "line 2: emotion is empty (nan: so programs write an empty cell)"),
        ((COLUMNS, "1.wav,A,\u200f"), "line 2: emotion is empty"),
        ((COLUMNS, "1.wav,A,anger", "", "1.wav,B,fear"), "line 4: 1.wav is listed already in line 2"),
        ((COLUMNS, "nowhere.wav,A,anger"), "None of the 1 recordings"),
        (("\udcff\udcfe",), "cannot be read as a CSV in UTF-8"),
    ],
)
def test_a_bad_table_is_refused_with_the_line(tmp_path, rows, message):
    path = files(tmp_path, "1.wav") / "metadata.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CorpusError) as error:
        read_corpus(tmp_path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_folder_that_is_no_corpus_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(CorpusError, match="There is no corpus"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="no recordings below"):
        read_corpus(tmp_path)
    with pytest.raises(CorpusError) as error:
        read_corpus(files(tmp_path, "one.wav", "two.wav"))
    for word in ("one.wav", "ShEMO", "EMO-DB", "URDU", "RAVDESS", "metadata.csv", "path, speaker, emotion"):
        assert word in str(error.value)


def test_a_folder_of_several_corpora_is_refused_unless_a_reader_is_named(tmp_path):
    files(tmp_path, "emodb/03a01Fa.wav", "shemo/F03S02.wav", "x/one.wav", "x/two.wav")
    with pytest.raises(CorpusError, match="Give the folder of each corpus"):
        read_corpus(tmp_path)
    assert emotions_of(read_corpus(tmp_path, reader="emo-db")) == {"03a01Fa": "happiness"}
    with pytest.raises(CorpusError, match="There is no reader 'savee'"):
        read_corpus(tmp_path, reader="savee")


def test_what_is_not_read_is_kept_in_mind_or_counted(tmp_path):
    foreign = os.fsdecode(b"\xffF03S02.wav")
    read, other = ("F03S02.wav", "M01A01.wav"), ("a.xyz", "b.XYZ", "noise", "readme.txt", ".hidden.xyz")
    corpus = read_corpus(files(tmp_path, *read, foreign, "._M01A01.wav", *other))
    [skipped] = corpus.skipped
    assert "ShEMO" in skipped.reason
    assert corpus.file_of(skipped.path).encode("utf-8") == b"\\udcffF03S02.wav"
    assert list(corpus.notes) == ["3 files are no recordings by their suffix: .xyz 2, no suffix 1."]
    (tmp_path / foreign).unlink()
    assert contents(tmp_path).recordings == tuple(tmp_path / name for name in read)


def test_labels_can_be_mapped_and_left_out(tmp_path):
    folder = files(tmp_path, "03a01Fa.wav", "03a01La.wav", "03a01Ea.wav", "03a01Eb.wav")
    corpus = read_corpus(folder, label_map={"boredom": "neutral"})
    assert corpus.emotions == ("happiness", "neutral", "disgust")
    six, dropped = keep_emotions(corpus, EMOTIONS)
    assert (six.emotions, dropped) == (("happiness", "neutral"), {"disgust": 2})
    with pytest.raises(CorpusError, match="has none of anger"):
        keep_emotions(corpus, ["anger"])


def test_joined_corpora_keep_their_speakers_apart_and_no_recording_is_in_two(tmp_path):
    names = ("a/03a01Fa.wav", "b/03-01-03-01-01-01-03.wav", "c/03b02Wa.wav")
    corpus = read_corpora([files(tmp_path, name) / name[0] for name in names])
    assert corpus.name == "EMO-DB+RAVDESS+EMO-DB2"
    assert corpus.speakers == ("EMO-DB2:03", "EMO-DB:03", "RAVDESS:03")
    assert (corpus.root, corpus.emotions) == (tmp_path, ("anger", "happiness"))
    with pytest.raises(CorpusError, match="in the joined corpus 2 times"):
        read_corpora([files(tmp_path / "x", "wav/03a01Fa.wav"), tmp_path / "x" / "wav"])


def test_the_fingerprint_follows_labels_and_names_and_not_the_place(tmp_path):
    one = read_corpus(files(tmp_path / "here", "F03S02.wav", "M01A01.wav"))
    moved = read_corpus(files(tmp_path / "there", "M01A01.wav", "F03S02.wav"))
    more = read_corpus(files(tmp_path / "more", "M01A01.wav", "F03S02.wav", "F03S03.wav"))
    assert one.fingerprint == moved.fingerprint != more.fingerprint
    assert one.fingerprint != read_corpus(tmp_path / "here", label_map={"anger": "fear"}).fingerprint

    names = ("wav/03a01Fa.wav", "Actor_03/03-01-03-01-01-01-03.wav")
    places = (("a", "b"), ("mnt/x/emodb", "home/ravdess"))
    here, there = (read_corpora([files(tmp_path / place, name) for place, name in zip(two, names, strict=True)])
                   for two in places)  # fmt: skip
    assert here.fingerprint == there.fingerprint
    assert [there.file_of(one.path) for one in there.utterances] == [
        f"EMO-DB/{names[0]}", f"RAVDESS/{names[1]}"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("شادی", f"شاد{ARABIC_YE}"), ("خشم", f"{RIGHT_TO_LEFT}خشم"), ("خنثی", "خنثى"),  # with alef maksura
        (f"بی{NO_JOIN}طرف", "بی طرف"), ("Excited", "excited"), ("علاقه", f"علاقه{NO_JOIN}"),
        ("Excité", "Excite\u0301"),  # one letter, or a letter and an accent
    ],
)  # fmt: skip
def test_labels_that_look_the_same_are_one_class(tmp_path, one, other):
    assert len(listed(tmp_path, f"1.wav,A,{one}", f"2.wav,B,{other}", "3.wav,C,fear").emotions) == 2


def test_speakers_written_in_two_ways_are_one_person_and_persian_labels_agree_with_names(tmp_path):
    """Two people would come to lie in training and test of one fold."""
    other = f"عل{ARABIC_YE}{RIGHT_TO_LEFT}"
    rows = ("1.wav,علی,fear", f"2.wav,{other},anger", "3.wav,Sara ,fear", "4.wav,sara,anger")
    assert listed(tmp_path, *rows).speakers == ("Sara", "علی")
    assert listed(tmp_path, "F01A01.wav,F01,خشم", "F01S01.wav,F01,غم").emotions == ("anger", "sadness")


def test_the_same_label_of_two_corpora_is_one_class(tmp_path):
    for name, label in (("a", "Excited"), ("b", "excited")):
        table(files(tmp_path / name, "1.wav") / "metadata.csv", COLUMNS, f"1.wav,A,{label}")
    corpus = read_corpora([tmp_path / "a", tmp_path / "b"])
    assert corpus.emotions == ("Excited",)
    assert len(keep_emotions(corpus, ["EXCITED"])[0].utterances) == 2


def test_labels_that_are_probably_one_are_reported(tmp_path):
    assert look_alikes(["surprise", "suprise", "fear", "calm"]) == [("surprise", "suprise")]
    assert not look_alikes([*EMOTIONS, "disgust", "boredom", "calm", "contempt", "excited", "frustration"])
    corpus = listed(tmp_path, "1.wav,A,surprise", "2.wav,B,suprise")
    assert "surprise and suprise look alike" in " ".join(corpus.notes)


def test_linked_folders_are_read_once_and_loops_end(tmp_path):
    elsewhere = files(tmp_path / "elsewhere", "M01A01.wav")
    folder = files(tmp_path / "corpus", "female/F03S02.wav")
    (folder / "male").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder / "female")
    (folder / "female" / "loop").symlink_to(folder)
    assert sorted(emotions_of(read_corpus(folder))) == ["F03S02", "M01A01"]
    assert len(read_corpus(folder).utterances) == 2


@pytest.mark.parametrize("name", ["M01A01.wav", "male"])
def test_a_link_that_leads_nowhere_is_an_error(tmp_path, name):
    """A folder on a disk that is not mounted would be half of the corpus."""
    (files(tmp_path, "F03S02.wav") / name).symlink_to("/nonexistent/place")
    words = rf"1 links below .* lead nowhere, {name} \(to /nonexistent/place\)"
    with pytest.raises(CorpusError, match=words):
        read_corpus(tmp_path)


def test_the_facts_of_a_corpus_come_from_names_and_headers(tmp_path):
    for number, name in enumerate(("F03S02", "F03A01", "M01A01")):
        write_voice(tmp_path / f"{name}.wav", 0.5 + number)
    (tmp_path / "M02A01.wav").write_bytes(b"no sound")
    found = facts(read_corpus(tmp_path))
    assert (found.n_utterances, found.n_speakers, found.n_timed) == (4, 3, 3)
    assert found.emotions == {"anger": 3, "sadness": 1}
    assert found.hours == pytest.approx((0.5 + 1.5 + 2.5) / 3600)


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["ang", "fea", "HAP", "neu", "sad", "Sur", "dis"], [*EMOTIONS, "disgust"]),
        (["خشم", "ترس", "شادی", "خنثی", "غم", "تعجب"], [*EMOTIONS]),
        (["عصبانی", "وحشت", "خوشحال", "عادی", "غمگین", "متعجب"], [*EMOTIONS]),
        (["Angry", "FEAR", "happy", " sad ", "Öfke"], ["anger", "fear", "happiness", "sadness", "Öfke"]),
    ],
)
def test_labels_go_by_their_common_names(words, labels):
    assert [common_label(word) for word in words] == labels
    assert spelled_emotion("set/S1_angry_03") == "anger"
    assert spelled_emotion("Sad/S1_03") == "sadness"
    assert spelled_emotion("set/angry_or_sad") is None


def test_the_real_names_of_shemo_give_the_labels_of_its_table(tmp_path, shared_data):
    with shared_data("shemo_metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    corpus = read_corpus(files(tmp_path, *(f"{row['gender']}/{row['file']}" for row in rows)))
    assert (len(corpus.utterances), len(corpus.speakers)) == (3000, 87)
    assert emotions_of(corpus) == {Path(row["file"]).stem: row["emotion"] for row in rows}
    corrected = read_corpus(tmp_path, labels="corrected", metadata=shared_data("shemo_metadata.csv"))
    pairs = zip(corpus.utterances, corrected.utterances, strict=True)
    assert sum(one.emotion != other.emotion for one, other in pairs) == 163


@pytest.mark.parametrize(
    ("folder", "clips", "speakers", "emotions"),
    [("emodb", 535, 10, 7), ("urdu", 400, 29, 4), ("ravdess", 1080, 18, 8), ("nemo", 3403, 7, 6)],
)
def test_real_corpora_are_read_whole(shared_data, folder, clips, speakers, emotions):
    corpus = read_corpus(shared_data(folder))
    assert (len(corpus.utterances), len(corpus.speakers), len(corpus.emotions)) == (clips, speakers, emotions)
    assert not corpus.skipped
    assert {one.gender for one in corpus.utterances} == {"female", "male"}
