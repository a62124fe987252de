"""`ser probe`: how good an encoder is, by logistic regression on averaged frames, one speaker left out at a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ser.cli.common import add_corpus_arguments, add_encoder_arguments, prepare_features


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.probe import C

    add_corpus_arguments(parser)
    add_encoder_arguments(parser)
    parser.set_defaults(encoder="shipped")
    parser.add_argument(
        "--c", type=float, default=C, help="inverse regularisation, fixed before looking (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures here")


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from ser.cli.crossval import interval_text
    from ser.metrics import score, scores_by
    from ser.probe import probe

    corpus, features, encoder = prepare_features(args)
    pooled = np.stack(
        [np.asarray(features[i], np.float32).mean(axis=0) for i in range(len(corpus.utterances))]
    )
    speakers = [utterance.speaker for utterance in corpus.utterances]
    result = probe(pooled, [utterance.emotion for utterance in corpus.utterances], speakers, args.c)
    scores = score(result.true, result.probabilities, speakers, result.labels).to_dict()
    by_speaker = {
        name: one.to_dict()
        for name, one in scores_by(
            speakers, result.true, result.probabilities, speakers, result.labels, 0
        ).items()
    }
    print(
        f"{corpus.name}: {len(speakers)} utterances, {len(corpus.speakers)} speakers, {len(result.labels)} emotions"
    )
    print(
        f"encoder {encoder.source}, layer {encoder.layer}, {encoder.dim} dimensions, fingerprint {encoder.fingerprint}"
    )
    print(f"leave-one-speaker-out logistic regression on averaged frames, C = {args.c}")
    for name, key in (("accuracy", "wa"), ("UAR", "uar")):
        print(f"  {name:9s} {interval_text(scores[key])}")  # type: ignore[arg-type]
    for name, one in by_speaker.items():
        print(f"  speaker {name:12s} {interval_text(one['wa'])}  of {one['n_utterances']}")  # type: ignore[arg-type]
    if args.json:
        content = {
            "encoder": vars(encoder),
            "corpus": corpus.name,
            "c": args.c,
            "scores": scores,
            "speakers": by_speaker,
        }
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0
