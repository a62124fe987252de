"""`ser bench`: each kind of work beside the plain way in the same run; into `bench.json` and as a table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

BEGIN, END = "<!-- speed: written by ser bench --readme -->", "<!-- end of speed -->"
ROWS = ("training", "training-packed", "encoder", "extraction", "clip", "page", "memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="fewer utterances and turns: a first impression")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="(default %(default)s)")
    parser.add_argument("--table", type=Path, metavar="JSON", help="only print the table of such a file")
    parser.add_argument(
        "--readme", type=Path, metavar="MD", help="with --table: put it between the marks there"
    )
    parser.add_argument("--threads", type=int, help="threads of torch")


def run(args: argparse.Namespace) -> int:
    from ser import bench

    if args.table:
        tables = _tables(json.loads(args.table.read_text()))
        print(tables)
        if args.readme:
            _put_between_marks(args.readme, tables)
        return 0
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    from ser.bench_memory import memory
    from ser.bench_rows import QUICK, Sizes
    from ser.bench_rows import ROWS as FUNCTIONS

    sizes = QUICK if args.quick else Sizes()
    before, rows, more = bench.conditions(), [], {}
    for name in args.only or ROWS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        if name == "memory":
            more = {"memory": [entry.to_dict() for entry in memory(sizes.memory_clips)]}
        else:
            rows.append(FUNCTIONS[name](sizes))
            _say(rows[-1])
        bench.write_bench(args.out, rows, before, {"quick": args.quick} | more)
    print(_tables(json.loads(args.out.read_text())))
    return 0


def _say(row: object) -> None:
    from ser.bench import Row

    assert isinstance(row, Row)
    for label, of in (("clock", lambda pair: pair.ratio), ("CPU time", lambda pair: pair.cpu_ratio)):
        least, median, largest = row.spread(of)
        print(f"  {label}: {median:.2f} times faster [{least:.2f}, {largest:.2f}]", file=sys.stderr)
    if row.difference is not None:
        print(f"  outputs differ by {row.difference:.1e} of their size", file=sys.stderr, flush=True)


def _put_between_marks(path: Path, tables: str) -> None:
    from ser.checkpoint import write_atomically
    from ser.errors import SettingsError

    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SettingsError(
            f"{path} does not hold the lines {BEGIN} and {END}; put them where the tables belong."
        )
    write_atomically(path, f"{before}{begin}\n{tables}\n\n{end}{after}".encode())


def _tables(content: dict[str, object]) -> str:
    from ser.bench import memory_table, table

    parts = [table(content)] if content["rows"] else []
    return "\n\n".join(parts + ([memory_table(content)] if "memory" in content else []))
