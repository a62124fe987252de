"""A speaker is never in two parts, every utterance is tested once, and what cannot be split is refused."""

from __future__ import annotations

import contextlib
import csv
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import write_corpus, write_voice

from ser.cli import main
from ser.corpora.corpus import keep_emotions, read_corpora, read_corpus
from ser.corpora.fold_search import solve
from ser.corpora.folds import (
    PARTS,
    Fold,
    check_folds,
    leave_one_corpus_out,
    leave_one_speaker_out,
    make_folds,
    random_folds,
    split_corpus,
)
from ser.corpora.inspect import inspect_corpus, usable
from ser.errors import FoldError, SettingsError
from ser.reporting.folds_report import class_shares, fold_rows, validated_by, worst_share


def corpus_of(counts: dict[str, dict[str, int]]) -> tuple[list[str], list[str]]:
    """Speakers and emotions of utterances, from speaker -> emotion -> number."""
    rows = [(name, emotion) for name, of in counts.items() for emotion, n in of.items() for _ in range(n)]
    return [name for name, _ in rows], [emotion for _, emotion in rows]


def balanced(n_speakers: int, emotions: str = "abc", n: int = 4) -> tuple[list[str], list[str]]:
    return corpus_of({f"S{i:02d}": dict.fromkeys(emotions, n) for i in range(n_speakers)})


def assert_sound(folds, speakers, emotions, every=PARTS):
    """The promises, checked independently of the code under test."""
    tested = Counter(index for fold in folds for index in fold.test)
    assert tested == Counter(range(len(speakers)))
    for fold in folds:
        parts = [set(getattr(fold, part)) for part in PARTS]
        assert sum(map(len, parts)) == len(speakers) == len(set.union(*parts))
        heard = [{speakers[index] for index in part} for part in parts]
        assert not heard[0] & heard[1]
        assert not heard[0] & heard[2]
        assert not heard[1] & heard[2]
        for part in every:
            assert {emotions[index] for index in getattr(fold, part)} == set(emotions)


@pytest.fixture(scope="module", params=["emotion", "emotion_modified"])
def shemo(request, shared_data) -> tuple[list[str], list[str], str]:
    with shared_data("shemo_metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["speaker"] for row in rows], [row[request.param] for row in rows], request.param


def test_the_folds_of_shemo_are_about_70_10_20_with_alike_class_shares(shemo):
    speakers, emotions, labels = shemo
    folds = make_folds(speakers, emotions)
    assert len(folds) == 5
    assert_sound(folds, speakers, emotions)
    overall = {emotion: n / len(emotions) for emotion, n in Counter(emotions).items()}
    for fold in folds:
        for part, share, size_pp, share_pp in (("test", 0.2, 1.0, 1.0), ("validation", 0.1, 1.0, 1.5)):
            members = Counter(emotions[index] for index in getattr(fold, part))
            assert abs(100 * (members.total() / 3000 - share)) <= size_pp
            for emotion, fraction in overall.items():
                off = abs(100 * (members[emotion] / members.total() - fraction))
                assert off <= share_pp
                if labels == "emotion":  # what the search reaches, well inside the bounds
                    assert off <= 0.4


def test_another_seed_keeps_to_the_bounds_on_shemo(shemo):
    speakers, emotions, _ = shemo
    folds = make_folds(speakers, emotions, seed=7)
    said = [{part: [emotions[i] for i in getattr(fold, part)] for part in PARTS} for fold in folds]
    shares = class_shares(said, sorted(set(emotions)))
    assert worst_share(shares["test"], emotions)[0] <= 1.0
    assert worst_share(shares["validation"], emotions)[0] <= 1.5


def test_folds_are_the_same_for_a_seed_whatever_the_order_of_the_utterances():
    speakers, emotions = balanced(9)
    emotions[:5] = "aaaaa"
    folds = make_folds(speakers, emotions)
    assert folds == make_folds(speakers, emotions)
    order = np.random.default_rng(0).permutation(len(speakers))
    shuffled = make_folds([speakers[i] for i in order], [emotions[i] for i in order])
    for one, two in zip(folds, shuffled, strict=True):
        for part in PARTS:
            assert {speakers[i] for i in getattr(one, part)} == {
                speakers[order[i]] for i in getattr(two, part)
            }


def test_folds_are_the_same_in_another_process():
    code = (
        "from ser.corpora.folds import make_folds\n"
        "s=[f'S{i%11}' for i in range(300)]; e=['abc'[(i*i//7)%3] for i in range(300)]\n"
        "print(make_folds(s, e))"
    )
    run = [sys.executable, "-c", code]
    first, second = (subprocess.run(run, capture_output=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
                     for seed in ("1", "2"))  # fmt: skip
    assert first == second


@pytest.mark.parametrize(("n_speakers", "n_folds"), [(5, 5), (7, 5), (10, 5), (3, 3), (4, 2), (12, 10)])
def test_few_speakers_are_split_where_a_split_exists(n_speakers, n_folds):
    speakers, emotions = balanced(n_speakers)
    folds = make_folds(speakers, emotions, n_folds)
    assert len(folds) == n_folds
    assert_sound(folds, speakers, emotions)


def test_the_only_split_is_found_where_greedy_choices_miss_it():
    pairs = {f"P{i}{j}": {a: 3, b: 3} for i, (a, b) in enumerate(["ab", "cd"]) for j in range(6)}
    speakers, emotions = corpus_of(pairs | {f"Q{i}": {"abcd"[i % 4]: 2 + i} for i in range(3)})
    folds = make_folds(speakers, emotions, 5)
    assert_sound(folds, speakers, emotions)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=14),
    n_folds=st.integers(2, 5),
    share=st.sampled_from([0.05, 0.1, 0.25]),
    seed=st.integers(0, 3),
)
def test_a_speaker_is_never_in_two_parts(counts, n_folds, share, seed):
    speakers, emotions = corpus_of(
        {f"S{i}": dict(zip("abc", row, strict=True)) for i, row in enumerate(counts)}
    )
    with contextlib.suppress(FoldError):
        folds = make_folds(speakers, emotions, n_folds, share, seed)
        assert len(folds) == n_folds
        assert_sound(folds, speakers, emotions)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=3), min_size=1, max_size=6),
    n_folds=st.integers(2, 3),
)
def test_a_split_is_refused_only_where_none_exists(counts, n_folds):
    speakers, emotions = corpus_of(
        {f"S{i}": dict(zip("abc", row, strict=False)) for i, row in enumerate(counts)}
    )
    if not speakers:
        return
    try:
        make_folds(speakers, emotions, n_folds)
        refused = False
    except FoldError:
        refused = True
    assert refused == (len(set(emotions)) < 2 or not split_exists(speakers, emotions, n_folds))


def split_exists(speakers: list[str], emotions: list[str], n_folds: int) -> bool:
    """By trying all: can each speaker get a test fold so that each fold also finds validation speakers?"""
    names = sorted(set(speakers))
    said = [
        {emotion for name, emotion in zip(speakers, emotions, strict=True) if name == one} for one in names
    ]
    everything = set(emotions)

    def whole(members: int) -> bool:
        return set().union(*(said[i] for i in range(len(names)) if members >> i & 1)) == everything

    everyone = (1 << len(names)) - 1

    def testable(members: int) -> bool:
        rest = everyone & ~members
        part = rest
        while part:
            if whole(part) and whole(rest & ~part):
                return whole(members)
            part = (part - 1) & rest
        return False

    good = [members for members in range(1, everyone + 1) if testable(members)]

    def cover(rest: int, folds: int) -> bool:
        if folds == 0:
            return rest == 0
        return any(cover(rest & ~members, folds - 1) for members in good if members & rest == members)

    return cover(everyone, n_folds)


def test_a_class_with_too_few_speakers_is_named_with_what_to_do():
    speakers, emotions = balanced(10)
    speakers += ["S00", "S01", "S02", "S03"]
    emotions += ["fear"] * 4
    with pytest.raises(FoldError) as error:
        make_folds(speakers, emotions)
    message = str(error.value)
    assert "fear has 4; 5 folds need at least 5" in message
    for word in ("fewer folds (at most 4)", "leave-one-speaker-out", "merge", "drop"):
        assert word in message
    assert_sound(make_folds(speakers, emotions, 4), speakers, emotions)


def test_too_few_speakers_are_told():
    with pytest.raises(FoldError, match=r"There are 4 speakers; .* Use fewer folds \(at most 4\)"):
        make_folds(*balanced(4))
    with pytest.raises(FoldError, match=r"There are 2 speakers; .*Add speakers"):
        make_folds(*balanced(2))
    with pytest.raises(FoldError, match="no utterances"):
        make_folds([], [])


def test_a_proven_impossibility_names_the_scarcest_emotion_and_what_would_help():
    """Each emotion has the three speakers that three folds need, but they are the same few people."""
    counts = {"S0": "ab", "S1": "bc", "S2": "ab", "S3": "c", "S4": "ac"}
    speakers, emotions = corpus_of({name: dict.fromkeys(said, 1) for name, said in counts.items()})
    with pytest.raises(FoldError) as error:
        make_folds(speakers, emotions, 3)
    for words in ("5 speakers cannot be split into 3 folds", "there is no such split", "a has the fewest speakers (3)",
                  "Use fewer folds", "leave-one-speaker-out"):  # fmt: skip
        assert words in str(error.value)


def test_settings_that_leave_nothing_are_refused():
    speakers, emotions = balanced(6)
    with pytest.raises(SettingsError, match="At least 2 folds"):
        make_folds(speakers, emotions, 1)
    with pytest.raises(SettingsError, match=r"between 0 and 0\.80, got 0\.8"):
        make_folds(speakers, emotions, 5, 0.8)
    with pytest.raises(FoldError, match="18 speakers were given for 72 emotions"):
        make_folds(speakers[:18], emotions)


def test_leave_one_speaker_out_tests_each_speaker_alone():
    speakers, emotions = balanced(6)
    folds = leave_one_speaker_out(speakers, emotions)
    assert [{speakers[index] for index in fold.test} for fold in folds] == [{f"S{i:02d}"} for i in range(6)]
    assert_sound(folds, speakers, emotions, every=("train", "validation"))


def test_leave_one_speaker_out_serves_speakers_with_one_emotion_each():
    speakers, emotions = corpus_of({f"{emotion}{i}": {emotion: 5} for emotion in "abcd" for i in range(3)})
    folds = leave_one_speaker_out(speakers, emotions)
    assert len(folds) == 12
    assert_sound(folds, speakers, emotions, every=("train", "validation"))


def test_leave_one_speaker_out_refuses_an_emotion_of_one_speaker():
    speakers, emotions = balanced(4)
    with pytest.raises(FoldError, match=r"fear has 1; leave-one-speaker-out needs at least 2"):
        leave_one_speaker_out([*speakers, "S00"], [*emotions, "fear"])
    with pytest.raises(FoldError, match="can be spared for validation"):
        leave_one_speaker_out(*corpus_of({"A": {"a": 1, "b": 1}, "B": {"a": 1}, "C": {"b": 1}}))


def test_leave_one_corpus_out_tests_each_corpus_alone():
    speakers, emotions = balanced(8)
    corpora = ["one" if speaker < "S04" else "two" for speaker in speakers]
    folds = leave_one_corpus_out(corpora, speakers, emotions)
    assert [{corpora[index] for index in fold.test} for fold in folds] == [{"one"}, {"two"}]
    assert_sound(folds, speakers, emotions)
    with pytest.raises(FoldError, match="needs at least two"):
        leave_one_corpus_out(["one"] * len(speakers), speakers, emotions)


def test_an_emotion_of_one_corpus_alone_is_refused_with_those_that_are_shared():
    """Left out, its corpus would be tested on an emotion that nobody was trained on."""
    speakers, emotions = balanced(8)
    corpora = ["one" if speaker < "S04" else "two" for speaker in speakers]
    emotions = ["sadness" if c == "two" and e == "c" else e for c, e in zip(corpora, emotions, strict=True)]
    with pytest.raises(FoldError) as error:
        leave_one_corpus_out(corpora, speakers, emotions)
    for words in ("sadness occurs in two alone", "c occurs in one alone", "--emotions a,b"):
        assert words in str(error.value)


def test_utterances_of_one_emotion_are_refused():
    speakers, _ = balanced(8)
    for split in (make_folds, leave_one_speaker_out, random_folds):
        with pytest.raises(FoldError, match="All utterances are anger; at least two emotions are needed"):
            split(speakers, ["anger"] * len(speakers))


@pytest.mark.parametrize("n_speakers", [5, 7, 10, 30])
def test_nobody_validates_two_folds_where_the_speakers_suffice(n_speakers):
    speakers, emotions = balanced(n_speakers)
    folds = make_folds(speakers, emotions)
    validating = [{speakers[index] for index in fold.validation} for fold in folds]
    assert max(Counter(name for names in validating for name in names).values()) == 1
    assert (
        validated_by(validating)
        == f"Validated by {sum(map(len, validating))} speakers, the most used in 1 fold."
    )


def test_a_speaker_validates_again_only_where_the_corpus_has_no_other():
    """Three speakers alone have the emotion that every validation part needs; two of the five folds test one."""
    rare = {f"R{i}": {"a": 4, "b": 4} for i in range(6)}
    speakers, emotions = corpus_of(rare | {f"S{i}": {"a": 4} for i in range(9)})
    folds = make_folds(speakers, emotions)
    validating = [{speakers[index] for index in fold.validation} for fold in folds]
    assert max(Counter(name for names in validating for name in names if name[0] == "R").values()) == 1


def test_leave_one_speaker_out_spreads_validation_over_the_speakers():
    speakers, emotions = balanced(20)
    folds = leave_one_speaker_out(speakers, emotions)
    uses = Counter(name for fold in folds for name in {speakers[index] for index in fold.validation})
    assert max(uses.values()) <= 4  # of 20 folds with two validation speakers each


def test_the_validation_speakers_of_emodb_are_five_people(shared_data):
    corpus = read_corpus(shared_data("emodb"))
    speakers = [one.speaker for one in corpus.utterances]
    folds = split_corpus(corpus)
    assert validated_by([speakers[i] for i in fold.validation] for fold in folds).endswith("in 1 fold.")


def test_random_folds_share_speakers_and_say_so():
    speakers, emotions = balanced(6, n=10)
    folds = random_folds(speakers, emotions)
    check_folds(folds, speakers, emotions, disjoint=False)
    with pytest.raises(FoldError, match="is in both train and"):
        check_folds(folds, speakers, emotions)
    assert "IGNORES SPEAKERS" in str(random_folds.__doc__)
    assert [len(fold.test) for fold in folds] == [36] * 5
    assert {len(fold.validation) for fold in folds} == {18}
    with pytest.raises(FoldError, match="rare has 2 utterances; 5 folds need at least 5"):
        random_folds([*speakers, "S00", "S01"], [*emotions, "rare", "rare"])


def test_folds_that_break_a_promise_are_noticed():
    speakers, emotions = balanced(6)
    folds = make_folds(speakers, emotions, 3)
    first = folds[0]
    moved = replace(first, train=first.train[1:], validation=(first.train[0], *first.validation))
    with pytest.raises(FoldError, match="is in both train and validation of fold 1"):
        check_folds((moved, *folds[1:]), speakers, emotions)
    with pytest.raises(FoldError, match="exactly once"):
        check_folds(folds[1:], speakers, emotions)
    with pytest.raises(FoldError, match="parts of fold 1"):
        check_folds((replace(first, train=first.train[1:]), *folds[1:]), speakers, emotions)
    labels = ["z" if speaker in {speakers[index] for index in first.test} else "a" for speaker in speakers]
    with pytest.raises(FoldError, match="The train part of fold 1 has no z"):
        check_folds(folds, speakers, labels)


def test_the_table_and_the_shares_count_what_is_in_the_parts():
    speakers, emotions = ["A", "A", "B", "C"], ["x", "y", "x", "x"]
    folds = (Fold((0, 1), (2,), (3,)),)
    assert fold_rows(folds, speakers, emotions) == [
        ["part", "utterances", "share", "speakers", "x", "y"],
        ["fold 1, train", "2", "50.00 %", "1", "1 (50.00 %)", "1 (50.00 %)"],
        ["fold 1, validation", "1", "25.00 %", "1", "1 (100.00 %)", "0 (0.00 %)"],
        ["fold 1, test", "1", "25.00 %", "1", "1 (100.00 %)", "0 (0.00 %)"],
        ["all", "4", "100.00 %", "3", "3 (75.00 %)", "1 (25.00 %)"],
    ]
    said = [{"train": ["x", "y"], "validation": ["x"], "test": []}]
    shares = class_shares(said, ["x", "y"])
    assert (shares["train"], shares["test"]) == ({"x": [0.5], "y": [0.5]}, {"x": [0.0], "y": [0.0]})
    assert worst_share({"x": [0.5, 0.9], "y": [0.5, 0.1]}, emotions) == (25.0, "y", 1)


def test_the_solver_knows_when_there_is_no_split():
    assert solve(np.ones((3, 2)), 3, 0.1) is not None
    assert solve(np.eye(4), 2, 0.1) is None


@pytest.mark.parametrize("folder", ["emodb", "ravdess", "nemo"])
def test_real_corpora_with_few_speakers_are_split(shared_data, folder):
    corpus = read_corpus(shared_data(folder))
    speakers = [one.speaker for one in corpus.utterances]
    emotions = [one.emotion for one in corpus.utterances]
    assert_sound(make_folds(speakers, emotions), speakers, emotions)


def test_urdu_is_refused_in_five_folds_and_split_in_three(shared_data):
    corpus = read_corpus(shared_data("urdu"))
    speakers = [one.speaker for one in corpus.utterances]
    emotions = [one.emotion for one in corpus.utterances]
    with pytest.raises(FoldError, match="anger has 4; 5 folds need at least 5"):
        make_folds(speakers, emotions)
    assert_sound(make_folds(speakers, emotions, 3), speakers, emotions)


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    speakers, emotions = balanced(10, n=3)
    rows = [
        f"{i}.wav,{speaker},{emotion}"
        for i, (speaker, emotion) in enumerate(zip(speakers, emotions, strict=True))
    ]
    path = tmp_path / "metadata_only.csv"
    path.write_text("\n".join(["file,speaker,emotion", *rows]))
    return path


def test_the_command_works_from_metadata_alone(metadata, capsys):
    out, page = metadata.with_suffix(".json"), metadata.with_suffix(".html")
    assert main(["folds", "--csv", str(metadata), "--json", str(out), "--html", str(page)]) == 0
    folds = json.loads(out.read_text())
    assert len(folds) == 5
    assert all(list(fold) == list(PARTS) for fold in folds)
    assert sorted(file for fold in folds for file in fold["test"]) == sorted(f"{i}.wav" for i in range(90))
    assert "No speaker is in two parts of a fold." in capsys.readouterr().out
    assert "Figure 4" in page.read_text()


def test_the_command_splits_what_is_in_the_folder(metadata, tmp_path, capsys):
    folder, out = tmp_path / "audio", tmp_path / "out.json"
    (folder / "deep").mkdir(parents=True)
    for number in range(81):  # the last speaker's are not there
        (folder / "deep" / f"{number}.wav").touch()
    assert main(["folds", "--csv", str(metadata), "--corpus", str(folder), "--json", str(out)]) == 0
    assert "81 of the 90 files" in capsys.readouterr().out
    assert sorted(file for fold in json.loads(out.read_text()) for file in fold["test"]) == sorted(
        f"{i}.wav" for i in range(81)
    )


@pytest.mark.parametrize("split", ["speakers", "loso", "corpora"])
def test_the_command_makes_the_folds_of_a_cross_validation(tmp_path, split):
    """The same recordings are left out before, and the same options choose."""
    from ser.training.crossval import CrossvalSettings

    corpora = [write_corpus(tmp_path / name, n_speakers=4) for name in ("one", "two")]
    for number, path in enumerate(corpora[1].glob("*.wav")):  # no sound twice
        write_voice(path, seed=1000 + number)
    for folder in corpora:
        (folder / "0_3.wav").write_bytes(b"no sound")  # one neutral recording that `crossval` would leave out
    out = tmp_path / "folds.json"
    words = ["folds", "--corpus", *map(str, corpora), "--emotions", "anger,neutral", "--folds", "4"]
    assert main([*words, "--split", split, "--json", str(out)]) == 0
    read, _ = keep_emotions(read_corpora(corpora), ["anger", "neutral"])
    corpus = usable(read, inspect_corpus(read))
    folds = CrossvalSettings(split=split, n_folds=4).folds(corpus)
    files = [corpus.file_of(one.path) for one in corpus.utterances]
    assert len(files) == 14
    assert json.loads(out.read_text()) == [
        {part: [files[i] for i in getattr(fold, part)] for part in PARTS} for fold in folds
    ]


def test_speakers_can_be_left_out_by_name(tmp_path, capsys):
    corpora = [write_corpus(tmp_path / name, n_speakers=5) for name in ("one", "two")]
    for number, path in enumerate(corpora[1].glob("*.wav")):
        write_voice(path, seed=1000 + number)
    words = ["folds", "--folds", "3", "--json", str(tmp_path / "out.json"), "--corpus"]
    assert main([*words, *map(str, corpora), "--without-speakers", "one:s1,two:s0"]) == 0
    tested = {file for fold in json.loads((tmp_path / "out.json").read_text()) for file in fold["test"]}
    assert len(tested) == 48
    assert not [file for file in tested if file.startswith(("one/1_", "two/0_"))]
    assert main([*words, str(corpora[0]), "--without-speakers", "s1"]) == 0
    assert main([*words, str(corpora[0]), "--without-speakers", "s9"]) == 1
    assert "s9, who are not in the corpus" in capsys.readouterr().err


def test_the_command_refuses_in_one_line(metadata, capsys):
    assert main(["folds"]) == 2
    assert main(["folds", "--csv", str(metadata), "--folds", "1"]) == 2
    assert main(["folds", "--csv", str(metadata), "--folds", "11"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert errors[2].startswith("ser: There are 10 speakers; 11 folds need at least 11.")


def test_the_command_warns_of_the_random_split(metadata, capsys):
    assert main(["folds", "--csv", str(metadata), "--split", "random"]) == 0
    assert "IGNORES SPEAKERS" in capsys.readouterr().out
    assert main(["folds", "--csv", str(metadata), "--split", "loso"]) == 0
