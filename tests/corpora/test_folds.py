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
from ser.corpora.fold_search import make_plan, solve
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
from ser.training.settings import CrossvalSettings


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
        heard = Counter(name for part in parts for name in {speakers[index] for index in part})
        assert set(heard.values()) == {1}
        for part in every:
            assert {emotions[index] for index in getattr(fold, part)} == set(emotions)


def validating(folds, speakers) -> list[set[str]]:
    return [{speakers[index] for index in fold.validation} for fold in folds]


def uses(folds, speakers) -> Counter[str]:
    """How many folds each speaker validates."""
    return Counter(name for names in validating(folds, speakers) for name in names)


def parts_of(corpus) -> tuple[list[str], list[str]]:
    return [one.speaker for one in corpus.utterances], [one.emotion for one in corpus.utterances]


@pytest.fixture(scope="module", params=["emotion", "emotion_modified"])
def shemo(request, shared_data) -> tuple[list[str], list[str], str]:
    with shared_data("shemo_metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["speaker"] for row in rows], [row[request.param] for row in rows], request.param


@pytest.mark.parametrize("seed", [40, pytest.param(7, marks=pytest.mark.slow)])
def test_the_folds_of_shemo_are_about_70_10_20_with_alike_class_shares(shemo, seed):
    speakers, emotions, labels = shemo
    folds = make_folds(speakers, emotions, seed=seed)
    assert len(folds) == 5
    assert_sound(folds, speakers, emotions)
    overall = {emotion: n / len(emotions) for emotion, n in Counter(emotions).items()}
    for part, share, bound in (("test", 0.2, 1.0), ("validation", 0.1, 1.5)):
        members = [Counter(emotions[index] for index in getattr(fold, part)) for fold in folds]
        shares = {emotion: [one[emotion] / one.total() for one in members] for emotion in overall}
        worst = max(abs(100 * (of - overall[emotion])) for emotion in overall for of in shares[emotion])
        # What the search reaches is well inside the bounds.
        assert worst <= (0.4 if (labels, seed) == ("emotion", 40) else bound)
        assert worst_share(shares, emotions)[0] == pytest.approx(worst)
        assert all(abs(100 * (one.total() / 3000 - share)) <= 1 for one in members)


def test_folds_are_the_same_for_a_seed_whatever_the_order_of_the_utterances():
    speakers, emotions = balanced(9)
    emotions[:5] = "aaaaa"
    folds = make_folds(speakers, emotions)
    assert folds == make_folds(speakers, emotions)
    order = np.random.default_rng(0).permutation(len(speakers))
    again = [speakers[i] for i in order]
    shuffled = make_folds(again, [emotions[i] for i in order])
    for one, two in zip(folds, shuffled, strict=True):
        for part in PARTS:
            assert {speakers[i] for i in getattr(one, part)} == {again[i] for i in getattr(two, part)}


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


HARD = corpus_of(
    {f"P{i}{j}": {a: 3, b: 3} for i, (a, b) in enumerate(["ab", "cd"]) for j in range(6)}
    | {f"Q{i}": {"abcd"[i % 4]: 2 + i} for i in range(3)}
)  # greedy choices miss its only split


@pytest.mark.parametrize(
    ("corpus", "n_folds"),
    [*((balanced(n), folds) for n, folds in ((5, 5), (7, 5), (10, 5), (3, 3), (4, 2), (12, 10))), (HARD, 5)],
)
def test_few_speakers_are_split_where_a_split_exists(corpus, n_folds):
    folds = make_folds(*corpus, n_folds)
    assert len(folds) == n_folds
    assert_sound(folds, *corpus)


def of_table(counts) -> tuple[list[str], list[str]]:
    return corpus_of({f"S{i}": dict(zip("abc", row, strict=False)) for i, row in enumerate(counts)})


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=14),
    n_folds=st.integers(2, 5), share=st.sampled_from([0.05, 0.1, 0.25]), seed=st.integers(0, 3),
)  # fmt: skip
def test_a_speaker_is_never_in_two_parts(counts, n_folds, share, seed):
    speakers, emotions = of_table(counts)
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
    speakers, emotions = of_table(counts)
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
    pairs, everything = list(zip(speakers, emotions, strict=True)), set(emotions)
    said = [{emotion for name, emotion in pairs if name == one} for one in sorted(set(speakers))]
    everyone = (1 << len(said)) - 1

    def whole(members: int) -> bool:
        return set().union(*(one for i, one in enumerate(said) if members >> i & 1)) == everything

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
    speakers, emotions = [*speakers, "S00", "S01", "S02", "S03"], [*emotions, *["fear"] * 4]
    assert_sound(make_folds(speakers, emotions, 4), speakers, emotions)
    # Each emotion has the three speakers that three folds need, but they are the same few people.
    few = {"S0": "ab", "S1": "bc", "S2": "ab", "S3": "c", "S4": "ac"}
    few = corpus_of({name: dict.fromkeys(said, 1) for name, said in few.items()})
    for corpus, n_folds, expected in (
        ((speakers, emotions), 5, ("fear has 4; 5 folds need at least 5", "fewer folds (at most 4)",
                                   "leave-one-speaker-out", "merge", "drop")),
        (few, 3, ("5 speakers cannot be split into 3 folds", "there is no such split", "Use fewer folds",
                  "a has the fewest speakers (3)", "leave-one-speaker-out")),
    ):  # fmt: skip
        with pytest.raises(FoldError) as error:
            make_folds(*corpus, n_folds)
        assert [words for words in expected if words not in str(error.value)] == []


ONE_EMOTION = (balanced(8)[0], ["anger"] * 96)
SINGLE = "All utterances are anger; at least two emotions are needed"
FEAR = ([*balanced(4)[0], "S00"], [*balanced(4)[1], "fear"])


BOTH = (make_folds, random_folds)


@pytest.mark.parametrize(
    ("split", "corpus", "n_folds", "words"),
    [
        (make_folds, balanced(4), 5, r"There are 4 speakers; .* Use fewer folds \(at most 4\)"),
        (make_folds, balanced(2), 5, "There are 2 speakers; .*Add speakers"),
        (make_folds, ([], []), 5, "no utterances"),
        (make_folds, (balanced(6)[0][:18], balanced(6)[1]), 5, "18 speakers were given for 72 emotions"),
        *((split, balanced(12), 10**30, "Use fewer folds") for split in BOTH),
        *((split, ONE_EMOTION, 5, SINGLE) for split in (*BOTH, leave_one_speaker_out)),
        (leave_one_speaker_out, FEAR, 0, "fear has 1; leave-one-speaker-out needs at least 2"),
        (leave_one_speaker_out, corpus_of({"A": {"a": 1, "b": 1}, "B": {"a": 1}, "C": {"b": 1}}), 0,
         "can be spared for validation"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(split, corpus, n_folds, words):
    with pytest.raises(FoldError, match=words):
        split(*corpus, *([] if split is leave_one_speaker_out else [n_folds]))


@pytest.mark.parametrize(
    ("split", "given", "words"),
    [(make_folds, (1,), "At least 2 folds"), (make_folds, (5, 0.8), r"between 0 and 0\.80, got 0\.8"),
     *((split, (3, 0.2, seed), "negative") for split in BOTH for seed in (-1, -(2**63)))],
)  # fmt: skip
def test_settings_that_leave_nothing_are_refused(split, given, words):
    with pytest.raises(SettingsError, match=words):
        split(*balanced(12), *given)


def test_leave_one_speaker_out_tests_each_speaker_alone_and_spreads_validation():
    one_emotion_each = {f"{emotion}{i}": {emotion: 5} for emotion in "abcd" for i in range(3)}
    for speakers, emotions in (balanced(6), balanced(20), corpus_of(one_emotion_each)):
        folds = leave_one_speaker_out(speakers, emotions)
        tested = [{speakers[index] for index in fold.test} for fold in folds]
        assert tested == [{name} for name in sorted(set(speakers))]
        assert_sound(folds, speakers, emotions, every=("train", "validation"))
        if len(folds) == 20:  # with two validation speakers each
            assert max(uses(folds, speakers).values()) <= 4


def test_leave_one_corpus_out_tests_each_corpus_alone_on_emotions_of_the_others():
    speakers, emotions = balanced(8)
    corpora = ["one" if speaker < "S04" else "two" for speaker in speakers]
    folds = leave_one_corpus_out(corpora, speakers, emotions)
    assert [{corpora[index] for index in fold.test} for fold in folds] == [{"one"}, {"two"}]
    assert_sound(folds, speakers, emotions)
    with pytest.raises(FoldError, match="needs at least two"):
        leave_one_corpus_out(["one"] * len(speakers), speakers, emotions)
    emotions = ["sadness" if c == "two" and e == "c" else e for c, e in zip(corpora, emotions, strict=True)]
    with pytest.raises(FoldError) as error:
        leave_one_corpus_out(corpora, speakers, emotions)
    for words in ("sadness occurs in two alone", "c occurs in one alone", "--emotions a,b"):
        assert words in str(error.value)


@pytest.mark.parametrize("n_speakers", [5, 7, 10, 30])
def test_nobody_validates_two_folds_where_the_speakers_suffice(n_speakers):
    speakers, emotions = balanced(n_speakers)
    names = validating(make_folds(speakers, emotions), speakers)
    n_used = sum(map(len, names))
    assert len(set().union(*names)) == n_used
    assert validated_by(names) == f"Validated by {n_used} speakers, the most used in 1 fold."


@pytest.mark.slow
def test_a_thousand_speakers_are_split_as_evenly_with_each_validating_once():
    counts = np.random.default_rng(0).multinomial(60, [0.35, 0.34, 0.15, 0.08, 0.06, 0.02], 1000).astype(float)
    plan = make_plan(counts, 5, 0.16, np.random.default_rng(40))
    assert plan.validation.sum(axis=0).max() == 1
    total = counts.sum(axis=0)
    for part, share in ((plan.test @ counts, 0.2), (plan.validation @ counts, 0.16)):
        assert np.abs(part / part.sum(axis=1, keepdims=True) - total / total.sum()).max() < 0.003
        assert np.abs(part.sum(axis=1) / total.sum() - share).max() < 0.003


def test_a_speaker_validates_again_only_where_the_corpus_has_no_other():
    """Three speakers alone have the emotion that every validation part needs; two of the five folds test one."""
    rare = {f"R{i}": {"a": 4, "b": 4} for i in range(6)}
    speakers, emotions = corpus_of(rare | {f"S{i}": {"a": 4} for i in range(9)})
    used = uses(make_folds(speakers, emotions), speakers)
    assert max(used[name] for name in rare) == 1


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
    first, rest = folds[0], folds[1:]
    moved = replace(first, train=first.train[1:], validation=(first.train[0], *first.validation))
    tested = {speakers[index] for index in first.test}
    labels = ["z" if speaker in tested else "a" for speaker in speakers]
    for broken, said, words in (
        ((moved, *rest), emotions, "is in both train and validation of fold 1"),
        (rest, emotions, "exactly once"),
        ((replace(first, train=first.train[1:]), *rest), emotions, "parts of fold 1"),
        (folds, labels, "The train part of fold 1 has no z"),
    ):
        with pytest.raises(FoldError, match=words):
            check_folds(broken, speakers, said)


def test_the_table_and_the_shares_count_what_is_in_the_parts():
    speakers, emotions = ["A", "A", "B", "C"], ["x", "y", "x", "x"]
    assert fold_rows((Fold((0, 1), (2,), (3,)),), speakers, emotions) == [
        ["part", "utterances", "share", "speakers", "x", "y"],
        ["fold 1, train", "2", "50.00 %", "1", "1 (50.00 %)", "1 (50.00 %)"],
        ["fold 1, validation", "1", "25.00 %", "1", "1 (100.00 %)", "0 (0.00 %)"],
        ["fold 1, test", "1", "25.00 %", "1", "1 (100.00 %)", "0 (0.00 %)"],
        ["all", "4", "100.00 %", "3", "3 (75.00 %)", "1 (25.00 %)"],
    ]
    assert class_shares([{"train": ["x", "y"], "validation": ["y"], "test": []}], ["x", "y"]) == {
        "train": {"x": [0.5], "y": [0.5]}, "validation": {"x": [0.0], "y": [1.0]}, "test": {"x": [0.0], "y": [0.0]},
    }  # fmt: skip
    assert worst_share({"x": [0.5, 0.9], "y": [0.5, 0.1]}, emotions) == (25.0, "y", 1)


def test_the_solver_knows_when_there_is_no_split():
    assert solve(np.ones((3, 2)), 3, 0.1) is not None
    assert solve(np.eye(4), 2, 0.1) is None


@pytest.mark.parametrize(("folder", "n_folds"), [("emodb", 5), ("ravdess", 5), ("nemo", 5), ("urdu", 3)])
def test_real_corpora_with_few_speakers_are_split_or_refused(shared_data, folder, n_folds):
    corpus = read_corpus(shared_data(folder))
    speakers, emotions = parts_of(corpus)
    folds = split_corpus(corpus, n_folds=n_folds)
    assert_sound(folds, speakers, emotions)
    if folder == "emodb":  # five people
        assert validated_by(validating(folds, speakers)).endswith("in 1 fold.")
    if folder == "urdu":
        with pytest.raises(FoldError, match="anger has 4; 5 folds need at least 5"):
            make_folds(speakers, emotions)


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    rows = [f"{i}.wav,{speaker},{emotion}"
            for i, (speaker, emotion) in enumerate(zip(*balanced(10, n=3), strict=True))]  # fmt: skip
    path = tmp_path / "metadata_only.csv"
    path.write_text("\n".join(["file,speaker,emotion", *rows]))
    return path


def two_corpora(folder: Path, n_speakers: int) -> list[Path]:
    """No sound of which is in both."""
    corpora = [write_corpus(folder / name, n_speakers) for name in ("one", "two")]
    for number, path in enumerate(corpora[1].glob("*.wav")):
        write_voice(path, seed=1000 + number)
    return corpora


def test_the_command_works_from_metadata_alone(metadata, capsys):
    out, page = metadata.with_suffix(".json"), metadata.with_suffix(".html")
    assert main(["folds", "--csv", str(metadata), "--out", str(out), "--html", str(page)]) == 0
    folds = json.loads(out.read_text())
    assert [list(fold) for fold in folds] == [list(PARTS)] * 5
    assert sorted(file for fold in folds for file in fold["test"]) == sorted(f"{i}.wav" for i in range(90))
    assert "No speaker is in two parts of a fold." in capsys.readouterr().out
    assert "Figure 4" in page.read_text()


def test_the_command_splits_what_is_in_the_folder(metadata, tmp_path, capsys):
    folder, out = tmp_path / "audio", tmp_path / "out.json"
    (folder / "deep").mkdir(parents=True)
    there = [f"{number}.wav" for number in range(81)]  # the last speaker's are not
    for name in there:
        (folder / "deep" / name).touch()
    assert main(["folds", "--csv", str(metadata), "--corpus", str(folder), "--out", str(out)]) == 0
    assert "81 of the 90 files" in capsys.readouterr().out
    assert sorted(file for fold in json.loads(out.read_text()) for file in fold["test"]) == sorted(there)


@pytest.mark.parametrize("split", ["speakers", "loso", "corpora"])
def test_the_command_makes_the_folds_of_a_cross_validation(tmp_path, split):
    """The same recordings are left out before, and the same options choose."""
    corpora = two_corpora(tmp_path, 4)
    for folder in corpora:
        (folder / "0_3.wav").write_bytes(b"no sound")  # one neutral recording that `crossval` would leave out
    out = tmp_path / "folds.json"
    words = ["folds", "--corpus", *map(str, corpora), "--emotions", "anger,neutral", "--folds", "4"]
    assert main([*words, "--split", split, "--out", str(out)]) == 0
    read, _ = keep_emotions(read_corpora(corpora), ["anger", "neutral"])
    corpus = usable(read, inspect_corpus(read))
    files = [corpus.file_of(one.path) for one in corpus.utterances]
    assert len(files) == 14
    assert json.loads(out.read_text()) == [
        {part: [files[i] for i in getattr(fold, part)] for part in PARTS}
        for fold in CrossvalSettings(split=split, n_folds=4).folds(corpus)
    ]


def test_speakers_can_be_left_out_by_name(tmp_path, capsys):
    corpora = two_corpora(tmp_path, 5)
    words = ["folds", "--folds", "3", "--out", str(tmp_path / "out.json"), "--corpus"]
    assert main([*words, *map(str, corpora), "--without-speakers", "one:s1,two:s0"]) == 0
    tested = {file for fold in json.loads((tmp_path / "out.json").read_text()) for file in fold["test"]}
    assert len(tested) == 48
    assert not [file for file in tested if file.startswith(("one/1_", "two/0_"))]
    assert main([*words, str(corpora[0]), "--without-speakers", "s1"]) == 0
    assert main([*words, str(corpora[0]), "--without-speakers", "s9"]) == 1
    assert "s9, who are not in the corpus" in capsys.readouterr().err


def test_the_command_refuses_in_one_line_and_warns_of_the_random_split(metadata, capsys):
    assert main(["folds"]) == 2
    assert main(["folds", "--csv", str(metadata), "--folds", "1"]) == 2
    assert main(["folds", "--csv", str(metadata), "--folds", "11"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert errors[2].startswith("ser: There are 10 speakers; 11 folds need at least 11.")
    assert main(["folds", "--csv", str(metadata), "--split", "random"]) == 0
    assert "IGNORES SPEAKERS" in capsys.readouterr().out
