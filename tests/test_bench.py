"""The bench measures both ways in turns, refuses what is not the same, and its table is the README's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_crossval import DIM, Toy

from ser import bench_rows, native
from ser.bench import (
    BenchError,
    Pair,
    Row,
    check_same,
    conditions,
    memory_table,
    table,
    take_turns,
    write_bench,
)
from ser.bench_memory import MemoryEntry
from ser.bench_rows import ROWS, Sizes, lengths_s
from ser.bench_trial import trial_row
from ser.classifier import BiGRUClassifier, ClassifierSettings
from ser.cli import main
from ser.cli.bench import BEGIN, END
from ser.plain import PlainClassifier
from ser.training import TrainingSettings

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "assets" / "bench.json"
TINY = Sizes(
    utterances=20, clips=2, repeats=2, training_repeats=1, classifier=ClassifierSettings(8, 4), dim=16,
    encoder=(
        ("num_hidden_layers", 1), ("hidden_size", 32), ("num_attention_heads", 2), ("intermediate_size", 32),
        ("conv_dim", (16,) * 7), ("num_conv_pos_embedding_groups", 2), ("num_conv_pos_embeddings", 32),
    ), clip_s=1.0, memory_clips=2,
)  # fmt: skip


TRAININGS = [pytest.param(name, marks=pytest.mark.slow) for name in ("training", "training-packed")]


@pytest.mark.parametrize("name", [*TRAININGS, "encoder", "extraction", "clip"])
def test_each_row_runs_and_both_ways_agree(name):
    row = ROWS[name](TINY)
    assert row.name == name
    assert row.pairs
    assert row.difference is not None
    assert row.difference < 2e-3
    assert all(pair.plain_s > 0 and pair.ours_s > 0 and pair.ours_cpu_s >= 0 for pair in row.pairs)


def test_plain_and_ours_take_turns_and_the_first_changes():
    done: list[str] = []
    pairs = take_turns(lambda: done.append("plain"), lambda: done.append("ours"), repeats=3)
    assert done == ["plain", "ours"] + ["plain", "ours", "ours", "plain", "plain", "ours"]
    assert len(pairs) == 3


@pytest.mark.parametrize("ours", [[1.0, 2.1], [1.0, float("nan")], [1.0, 2.0, 3.0]])
def test_outputs_that_are_not_the_same_end_the_bench(ours):
    with pytest.raises(BenchError, match="encoder"):
        check_same("encoder", [1.0, 2.0], ours, tolerance=1e-3)
    assert check_same("encoder", [1.0, 2.0], [1.0, 2.0002], tolerance=1e-3) == pytest.approx(1e-4)


def test_a_wrong_answer_of_ours_is_found(monkeypatch):
    monkeypatch.setattr(
        bench_rows.plain, "plain_answer", lambda *_: torch.tensor([0.9, 0.1, 0.0, 0.0, 0.0, 0.0])
    )
    with pytest.raises(BenchError, match="clip"):
        bench_rows.clip_row(TINY)


@pytest.mark.parametrize("packed", [True, False])
def test_the_plain_classifier_gives_the_logits_of_ours_at_the_same_weights(packed, monkeypatch):
    """Of ours in float32, without the kernels' integers."""
    monkeypatch.setattr(native, "kernels", lambda: None)
    settings = ClassifierSettings(8, 4)
    torch.manual_seed(40)
    ours, plain = BiGRUClassifier(16, 6, settings).eval(), PlainClassifier(16, 6, settings, packed).eval()
    for name, parameter in ours.named_parameters():
        if packed or "bias" not in name:  # a bias moves the unpacked backward GRU through the padding
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    plain.copy_weights(ours)
    frames, lengths = torch.randn(3, 20, 16), torch.tensor([20, 7, 13])
    with torch.inference_mode():
        np.testing.assert_allclose(plain(frames, lengths), ours.padded(frames, lengths), atol=1e-5)


@pytest.mark.slow
def test_a_whole_trial_stops_early_either_way_and_comes_to_like_scores(tmp_path):
    toy = Toy(tmp_path)
    settings = TrainingSettings(
        optimizer="adam",
        learning_rate=0.01,
        l2=1e-4,
        max_epochs=12,
        patience=2,
        monitor="loss",
        max_frames=12,
    )
    row = trial_row(toy.corpus, toy, DIM, 1, ClassifierSettings(8, 8, 1, dropout=0.0), settings)
    assert [outcome["seed"] for outcome in row.outcomes] == [40]
    for outcome in row.outcomes:
        # Not the same: a bias moves the plain way's backward GRU through the padding.
        for way in ("plain", "ours"):
            assert len(outcome[f"{way}_epochs"]) == 5
            assert min(outcome[f"{way}_epochs"]) < 12
        assert outcome["plain_validation_wa"] == pytest.approx(outcome["ours_validation_wa"], abs=0.1)
    assert len(row.pairs) == 1


def test_the_trial_row_asks_for_a_corpus(capsys):
    assert main(["bench", "--only", "trial"]) == 2
    assert "--corpus" in capsys.readouterr().err


def test_lengths_are_those_of_shemo():
    lengths = lengths_s(3000)
    assert lengths.mean() == pytest.approx(4.1, abs=0.15)
    assert (lengths > 6).mean() == pytest.approx(0.188, abs=0.02)


def test_ratios_come_with_min_median_and_max(tmp_path):
    row = Row("x", "work", "plain way", "2", 1e-6, (Pair(4, 2, 4, 4), Pair(9, 3, 9, 3), Pair(1, 1, 1, 1)))
    write_bench(tmp_path / "bench.json", [row], conditions(), {"quick": True})
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["rows"][0]["ratio"] == {"min": 1, "median": 2, "max": 3}
    assert content["rows"][0]["cpu_ratio"]["median"] == 1
    assert "2.0 [1.0, 3.0]" in table(content)
    assert {"threads", "load_average", "versions", "cpu", "instructions"} <= content["before"].keys()
    assert content["before"]["product_gflops"] > 0


def test_memory_stands_in_a_table_of_its_own():
    entry = MemoryEntry("extraction", 10, 300, 700, 300, 310)
    assert "| extraction | 300 MB | 700 MB | 300 MB | 310 MB |" in memory_table({"memory": [entry.to_dict()]})


def test_the_command_writes_figures_and_prints_their_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench_rows, "QUICK", TINY)
    assert main(["bench", "--quick", "--only", "encoder", "--out", str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr().out
    assert "eager `HubertModel`" in printed
    assert main(["bench", "--table", str(tmp_path / "b.json")]) == 0
    assert capsys.readouterr().out == printed


def test_a_row_measured_anew_leaves_the_others(tmp_path):
    path = tmp_path / "b.json"
    first, other, second = (
        Row(name, name, way, "2", 1e-6, (Pair(4, 2, 4, 4),))
        for name, way in (("x", "old"), ("y", "kept"), ("x", "new"))
    )
    write_bench(path, [first, other], conditions(), {"memory": []})
    write_bench(path, [second], conditions(), {}, json.loads(path.read_text()))
    content = json.loads(path.read_text())
    assert [row["plain"] for row in content["rows"]] == ["new", "kept"]
    assert all(row["measured"] for row in content["rows"])
    assert content["memory"] == []


def test_the_tables_are_put_between_their_marks_in_a_readme(tmp_path):
    row = Row("x", "work", "plain way", "2", 1e-6, (Pair(4, 2, 4, 4),))
    write_bench(tmp_path / "b.json", [row], conditions(), {})
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(["bench", "--table", str(tmp_path / "b.json"), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert "plain way" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    readme.write_text("no marks")
    assert main(["bench", "--table", str(tmp_path / "b.json"), "--readme", str(readme)]) == 2


@pytest.mark.slow
def test_the_peak_of_extraction_and_training_is_measured_in_processes_of_their_own():
    from ser.bench_memory import memory

    for entry in memory(2):
        assert 20 < entry.ours_1x < 3000
        assert 20 < entry.plain_10x < 3000


@pytest.mark.skipif(not FIGURES.exists(), reason="no figures are kept in this tree")
def test_the_readme_s_tables_are_those_of_the_kept_figures():
    content, readme = json.loads(FIGURES.read_text()), (ROOT / "README.md").read_text(encoding="utf-8")
    assert table(content) in readme
    assert "memory" not in content or memory_table(content) in readme
