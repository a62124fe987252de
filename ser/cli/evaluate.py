"""`ser evaluate`: scores of a trained model on labelled recordings, as JSON, table and report."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ser.cli.arguments import add_corpus_arguments, add_machine_arguments, add_model_arguments, add_sharing, positive
from ser.cli.prepare import Stage, is_shared, named_model, read_corpus_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("runs") / "evaluation", metavar="DIR",
        help="folder for evaluation.json, predictions.csv and report.html (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-trained-speakers", action="store_true",
        help="score speakers that the model was trained on too; such figures flatter it",
    )  # fmt: skip
    voices = parser.add_mutually_exclusive_group()
    voices.add_argument(
        "--voice", type=positive, default=0, metavar="N",
        help="know each speaker by N recordings, which are not scored; prints the gain",
    )  # fmt: skip
    voices.add_argument("--neutral-voice", type=positive, default=0, metavar="N", help="the same by N neutral ones")
    add_corpus_arguments(parser)
    add_sharing(parser)
    add_machine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ser import load
    from ser.cli.predict import answers
    from ser.errors import SettingsError
    from ser.experiments.evaluate import evaluate, known_speakers
    from ser.features.extract import progress_bar
    from ser.files import write_atomically, write_json
    from ser.reporting.evaluation_report import write_evaluation_report

    args.out.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus_arguments(args)
    model = load(args.checkpoint, args.encoder)
    heard = known_speakers(corpus, model.trained_on)
    if heard and not args.allow_trained_speakers:
        raise SettingsError(
            f"The model was trained on {len(heard)} of these {len(corpus.speakers)} speakers, for instance "
            f"{', '.join(heard[:3])}. Leave them out, or add --allow-trained-speakers and say so beside the figures."
        )
    n_heard, neutral = args.voice or args.neutral_voice, bool(args.neutral_voice)
    shared = partial(answers, args, None) if is_shared(args) else None
    evaluation = evaluate(model, corpus, Stage("evaluating", progress_bar("evaluating")), n_heard, neutral, shared)
    content = {
        "kind": "evaluation",
        "model": named_model(args)[1],
        "protocol": _protocol(len(heard), len(corpus.speakers))
        + f"; each known by {n_heard} {'neutral ' if neutral else ''}recordings" * bool(n_heard),
        "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "labels": list(evaluation.labels),
        **evaluation.to_dict(),
    }
    write_json(args.out / "evaluation.json", content)
    table = evaluation.table(corpus.file_of)
    write_atomically(args.out / "predictions.csv", table.encode(errors="backslashreplace"))
    write_evaluation_report(content, args.out / "report.html")
    _print(content)
    for file, reason in evaluation.unreadable:
        print(f"ser: {file}: {reason}", file=sys.stderr)
    print(f"Written: {args.out / 'evaluation.json'}, predictions.csv, report.html")
    return 1 if evaluation.unreadable else 0


def _protocol(n_heard: int, n_speakers: int) -> str:
    if n_heard:
        return f"{n_heard} of {n_speakers} speakers were in the model's training: the figures flatter it"
    return f"{n_speakers} speakers, none of them named by the model's training"


def _print(content: dict[str, Any]) -> None:
    from ser.cli.output import interval_text, print_groups, print_scores

    print(f"{content['corpus']['name']}: {content['protocol']}")
    print_scores(content["scores"], content["labels"], content["largest_class"])
    sure = content["sure"]
    if sure["precision"] is not None:
        print(f"  sure of {100 * sure['coverage']:.1f} %, of which {100 * sure['precision']:.1f} % are right")
    if "voices" in content:
        print(f"  WA without voices  {interval_text(content['voices']['without']['wa'])}")
        print(f"  gain by voices     {interval_text(content['voices']['gain']['wa'])}")
    print_groups(content["by_corpus"], "corpus")
    print_groups(content["by_gender"], "gender")
