"""`ser bench`: each kind of work beside the plain way in the same run, or as a corpus grows; as JSON and as a table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ser.bench import Row
    from ser.corpora import Corpus

BEGIN, END = "<!-- speed: written by ser bench --readme -->", "<!-- end of speed -->"
SCALE_BEGIN, SCALE_END = "<!-- scale: written by ser bench --readme -->", "<!-- end of scale -->"
ROWS = ("training", "training-packed", "encoder", "extraction", "clip", "page", "memory", "trial")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="fewer utterances and turns: a first impression")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help=f"some of {', '.join(ROWS)}")
    parser.add_argument(
        "--scale", nargs="+", type=int, metavar="TIMES",
        help="instead: time and memory of a corpus repeated so often, for instance 1 10 100",
    )  # fmt: skip
    parser.add_argument(
        "--corpus", nargs="+", type=Path, metavar="DIR",
        help="of the row trial, six emotions of them; with --scale: what to repeat (default: a synthetic one)",
    )  # fmt: skip
    parser.add_argument(
        "--utterances", type=int, default=120, metavar="N",
        help="of the row trial, drawn at random, 0 for all (default 120: the plain way takes its time)",
    )  # fmt: skip
    parser.add_argument(
        "--turns", type=int, default=3, metavar="N", help="of the row trial, each with a seed of its own"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="with --scale: a trained model (default: the shipped one)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="JSON", help="(default bench.json, with --scale scale.json)"
    )
    parser.add_argument("--table", type=Path, metavar="JSON", help="only print the table of such a file")
    parser.add_argument(
        "--readme", type=Path, metavar="MD", help="with --table: put it between the marks there"
    )
    parser.add_argument("--threads", type=int, help="threads of torch")


def run(args: argparse.Namespace) -> int:
    from ser.errors import SettingsError

    if args.scale and (args.quick or args.only):
        raise SettingsError("--scale measures something else than --quick and --only: leave these out.")
    if args.checkpoint and not args.scale:
        raise SettingsError("--checkpoint goes with --scale, for instance --scale 1 10.")
    if args.only and ("trial" in args.only) != bool(args.corpus):
        raise SettingsError(
            "The row trial, and no other, is measured on --corpus, for instance --corpus /data/EmoDB."
        )
    if args.table:
        content = json.loads(args.table.read_text())
        print(_tables(content))
        if args.readme:
            begin, end = (SCALE_BEGIN, SCALE_END) if "scale" in content else (BEGIN, END)
            _put_between_marks(args.readme, _tables(content), begin, end)
        return 0
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    return _measure_scale(args) if args.scale else _measure_rows(args)


def _measure_rows(args: argparse.Namespace) -> int:
    from ser import bench
    from ser.bench_memory import memory
    from ser.bench_rows import QUICK, Sizes
    from ser.bench_rows import ROWS as FUNCTIONS
    from ser.bench_trial import shipped_trial
    from ser.errors import SettingsError

    out = args.out or Path("bench.json")
    sizes = QUICK if args.quick else Sizes()
    corpus = _six_emotions(args.corpus) if args.corpus else None
    before, rows, more = bench.conditions(), [], {}
    kept = json.loads(out.read_text()) if args.only and out.exists() else {}
    if kept.get("quick", args.quick) != args.quick:
        raise SettingsError(
            f"{out} is of a run {'with' if kept['quick'] else 'without'} --quick: name another --out."
        )
    for name in args.only or ROWS:
        if name == "trial" and corpus is None:
            print("trial is left out: it is measured on --corpus.", file=sys.stderr)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        if name == "memory":
            more = {"memory": [entry.to_dict() for entry in memory(sizes.memory_clips)]}
        else:
            trial = name == "trial" and corpus
            rows.append(
                shipped_trial(trial, args.utterances, args.turns) if trial else FUNCTIONS[name](sizes)
            )
            _say(rows[-1])
        bench.write_bench(out, rows, before, {"quick": args.quick} | more, kept)
    print(_tables(json.loads(out.read_text())))
    return 0


def _six_emotions(sources: Sequence[Path]) -> Corpus:
    from ser.corpora import keep_emotions, read_corpora
    from ser.labels import EMOTIONS

    return keep_emotions(read_corpora(sources), EMOTIONS)[0]


def _measure_scale(args: argparse.Namespace) -> int:
    from ser import bench
    from ser.bench_scale import scale
    from ser.corpora import read_corpora
    from ser.synth import write_demo_corpus

    # A batch system's way to end it: the temporary folder is removed, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out, before, n_said = args.out or Path("scale.json"), bench.conditions(), 0
    with tempfile.TemporaryDirectory(prefix="ser-scale-") as folder:
        sources = args.corpus or [write_demo_corpus(Path(folder) / "synthetic").parent]
        corpus = read_corpora(sources)
        for content in scale(corpus, args.scale, args.checkpoint, args.threads):
            for row in content["rows"][n_said:]:
                _say_scale(row)
            n_said = len(content["rows"])
            bench.write_bench(out, [], before, {"scale": content})
    print(_tables(json.loads(out.read_text())))
    return 0


def _say_scale(row: dict[str, Any]) -> None:
    print(
        f"{row['times']}x {row['work']}: {row['utterances']} utterances, {row['hours']:.3g} h of audio, "
        f"{row['seconds']:.1f} s, {row['seconds_per_hour']:.1f} s an hour, {row['peak_mib']:.0f} MiB",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _say(row: Row) -> None:
    for label, of in (("clock", lambda pair: pair.ratio), ("CPU time", lambda pair: pair.cpu_ratio)):
        least, median, largest = row.spread(of)
        print(f"  {label}: {median:.2f} times faster [{least:.2f}, {largest:.2f}]", file=sys.stderr)
    if row.difference is not None:
        print(f"  outputs differ by {row.difference:.1e} of their size", file=sys.stderr, flush=True)
    for outcome in row.outcomes:
        print(f"  {json.dumps(outcome)}", file=sys.stderr, flush=True)


def _put_between_marks(path: Path, tables: str, begin_mark: str, end_mark: str) -> None:
    from ser.checkpoint import write_atomically
    from ser.errors import SettingsError

    before, begin, rest = path.read_text(encoding="utf-8").partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not end:
        raise SettingsError(
            f"{path} does not hold the lines {begin_mark} and {end_mark}; put them where the tables belong."
        )
    write_atomically(path, f"{before}{begin}\n{tables}\n\n{end}{after}".encode())


def _tables(content: dict[str, Any]) -> str:
    from ser.bench import memory_table, table
    from ser.bench_scale import scale_table

    if "scale" in content:
        return scale_table(content)
    parts = [table(content)] if content["rows"] else []
    return "\n\n".join(parts + ([memory_table(content)] if "memory" in content else []))
