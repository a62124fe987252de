"""`ser probe`: how good an encoder is, by logistic regression on averaged frames, one speaker left out at a time."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli.common import (
    add_corpus_arguments,
    add_encoder_arguments,
    prepare_features,
    read_corpus_arguments,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser.corpora.corpus import Corpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.experiments.probe import C

    add_corpus_arguments(parser)
    add_encoder_arguments(parser)
    parser.set_defaults(encoder="shipped")
    parser.description = (
        "The yardstick for an encoder. --encoder also takes 'random', DistilHuBERT's shape with fresh weights, and "
        "'egemaps' or 'compare', the functionals of openSMILE."
    )
    parser.add_argument(
        "--c", type=float, default=C, help="inverse regularisation, fixed before looking (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures here")


def run(args: argparse.Namespace) -> int:
    from ser.cli.crossval import interval_text
    from ser.experiments.probe import probe
    from ser.features.opensmile import SETS
    from ser.scoring.metrics import score, scores_by

    corpus, pooled, encoder = _functionals(args) if args.encoder in SETS else _pooled(args)
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
    print(", ".join(f"{name} {value}" for name, value in encoder.items()))
    print(f"leave-one-speaker-out logistic regression on one vector an utterance, C = {args.c}")
    for name, key in (("accuracy", "wa"), ("UAR", "uar")):
        print(f"  {name:9s} {interval_text(scores[key])}")
    for name, one in by_speaker.items():
        print(f"  speaker {name:12s} {interval_text(one['wa'])}  of {one['n_utterances']}")
    if args.json:
        content = {
            "encoder": encoder,
            "corpus": corpus.name,
            "c": args.c,
            "scores": scores,
            "speakers": by_speaker,
        }
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def _pooled(args: argparse.Namespace) -> tuple[Corpus, NDArray[Any], dict[str, Any]]:
    """Frames averaged over time, `(utterances, dim)`."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        if args.encoder == "random":
            args.encoder, args.cache = _fresh_encoder(Path(folder) / "random"), Path(folder) / "cache"
        corpus, features, reference = prepare_features(args)
        pooled = [np.asarray(features[i], np.float32).mean(axis=0) for i in range(len(corpus.utterances))]
        del features  # its files are mapped from the folder
    source = "random" if Path(reference.source).name == "random" else reference.source
    encoder = {"encoder": source, "layer": reference.layer, "dim": reference.dim}
    return corpus, np.stack(pooled), encoder | {"fingerprint": reference.fingerprint}


def _fresh_encoder(folder: Path) -> str:
    """DistilHuBERT's shape with weights that learned nothing, always the same ones."""
    import torch

    from ser.runtime import import_torchaudio

    import_torchaudio()
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(40)
    HubertModel(HubertConfig(num_hidden_layers=2)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


def _functionals(args: argparse.Namespace) -> tuple[Corpus, NDArray[Any], dict[str, Any]]:
    """openSMILE's functionals, `(utterances, features)`."""
    from ser.audio.load import load_audio
    from ser.features.opensmile import functionals

    corpus = read_corpus_arguments(args)
    total = len(corpus.utterances)

    def report(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)

    vectors = functionals((load_audio(one.path) for one in corpus.utterances), args.encoder, report)
    return corpus, vectors, {"functionals": args.encoder, "dim": vectors.shape[1]}
