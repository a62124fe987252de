"""`ser audit`: what noise, rooms and telephones do to a model's answers, and whom it serves worse."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ser.cli.arguments import add_corpus_arguments, add_machine_arguments, add_model_arguments
from ser.cli.prepare import named_model, read_corpus_arguments

KINDS = ("sex", "length", "corpus")  # of groups; that of speakers is too fine for a limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.audio.conditions import CONDITIONS

    add_model_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("runs") / "audit", metavar="DIR",
        help="folder for audit.json and report.html (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--conditions", nargs="+", choices=tuple(CONDITIONS), default=list(CONDITIONS), metavar="NAME",
        help=f"of {', '.join(CONDITIONS)} (default: all)".replace("%", "%%"),
    )  # fmt: skip
    limits = parser.add_argument_group("limits", "exit status 1 where one is missed, for pipelines")
    limits.add_argument("--min-uar", type=float, metavar="SHARE", help="UAR under every condition")
    limits.add_argument("--min-stay", type=float, metavar="SHARE", help="answers that stay under every one")
    limits.add_argument("--max-gap", type=float, metavar="SHARE", help="UAR of a sex, length or corpus below the rest")
    add_corpus_arguments(parser)
    add_machine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ser import load
    from ser.experiments.audit import SEED, audit
    from ser.features.extract import progress_bar
    from ser.files import write_json
    from ser.reporting.audit_report import write_audit_report
    from ser.runtime import library_versions

    args.out.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus_arguments(args)
    found = audit(load(args.checkpoint, args.encoder), corpus, args.conditions, progress_bar("auditing"))
    about: dict[str, Any] = {
        "kind": "audit",
        "model": named_model(args)[1],
        "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "seed": SEED,
    }
    missed = _missed(found, args)
    content = about | {"versions": library_versions()} | found | {"missed": missed}
    write_json(args.out / "audit.json", content)
    write_audit_report(content, args.out / "report.html")
    _print(content)
    print(f"Written: {args.out / 'audit.json'}, report.html")
    return int(bool(missed))


def _missed(found: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """The limits that the model misses, in sentences."""
    missed = []
    for name, one in found["conditions"].items():
        uar = one["scores"]["uar"]["value"]
        if args.min_uar is not None and uar < args.min_uar:
            missed.append(f"{name}: UAR {uar:.1%} is below {args.min_uar:.1%}")
        if args.min_stay is not None and one["stay"] < args.min_stay:
            missed.append(f"{name}: {one['stay']:.1%} of the answers stay, fewer than {args.min_stay:.1%}")
    for kind in KINDS:
        for name, one in found["groups"].get(kind, {}).items():
            gap = -(one["difference"]["uar"]["value"] or 0)
            if args.max_gap is not None and gap > args.max_gap:
                missed.append(f"{kind} {name}: UAR {gap:.1%} below that of the others, more than {args.max_gap:.1%}")
    return missed


def _print(content: dict[str, Any]) -> None:
    from ser.cli.output import interval_text

    plain = content["plain"]
    print(f"{content['corpus']['name']}: {plain['n_utterances']} recordings of {plain['n_speakers']} speakers")
    print(f"  {'as recorded':24s}{'':8s}UAR {interval_text(plain['uar'])}")
    for name, one in content["conditions"].items():
        print(f"  {name:24s}{one['stay']:6.1%} stay  UAR {interval_text(one['scores']['uar'])}")
    for kind in KINDS:
        for name, one in content["groups"].get(kind, {}).items():
            apart = interval_text(one["difference"]["uar"])
            print(f"  {kind} {name:18s} UAR {interval_text(one['uar'])}, against the others {apart}")
    if speakers := content["groups"].get("speaker"):
        name, one = min(speakers.items(), key=lambda row: row[1]["uar"]["value"])
        print(f"  lowest speaker {name} UAR {one['uar']['value']:.1%}, {one['n_utterances']} recordings")
    for sentence in content["missed"]:
        print(f"missed: {sentence}")
