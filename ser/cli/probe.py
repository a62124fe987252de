"""`ser probe`: how good an encoder is, by logistic regression on averaged frames, one speaker left out at a time."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli import arguments, prepare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser.corpora.corpus import Corpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.experiments.probe import C

    arguments.add_corpus_arguments(parser)
    arguments.add_encoder_arguments(parser)
    parser.set_defaults(encoder="shipped")
    parser.description = (
        "The yardstick for an encoder. --encoder also takes 'random', DistilHuBERT's shape with untrained weights, and "
        "'egemaps' or 'compare', the functionals of openSMILE."
    )
    parser.add_argument("--c", type=float, default=C, help=f"inverse regularisation strength C (default {C})")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="also write the scores to this file, as JSON")


def run(args: argparse.Namespace) -> int:
    from ser.cli.output import interval_text
    from ser.errors import SettingsError
    from ser.experiments.probe import probe
    from ser.features.opensmile import SETS
    from ser.files import write_json
    from ser.scoring.metrics import score, scores_by

    if args.out and not args.out.parent.is_dir():
        raise SettingsError(f"--out {args.out}: there is no folder {args.out.parent}. Make it first.")
    if not 0 < args.c < float("inf"):
        raise SettingsError(f"--c must be positive, got {args.c}.")
    corpus, vectors, encoder = _functionals(args) if args.encoder in SETS else _averaged_frames(args)
    speakers = [utterance.speaker for utterance in corpus.utterances]
    result = probe(vectors, [utterance.emotion for utterance in corpus.utterances], speakers, args.c)
    predicted = result.true, result.probabilities, speakers, result.labels
    scores: dict[str, Any] = score(*predicted).to_dict()
    by_speaker: dict[str, Any] = {name: one.to_dict() for name, one in scores_by(speakers, *predicted, 0).items()}
    print(
        f"{corpus.name}: {len(speakers)} utterances, {len(corpus.speakers)} speakers, {len(result.labels)} emotions\n"
        + ", ".join(f"{name} {value}" for name, value in encoder.items())
        + f"\nleave-one-speaker-out logistic regression on one vector an utterance, C = {args.c}\n"
        f"  accuracy  {interval_text(scores['wa'])}\n  UAR       {interval_text(scores['uar'])}"
    )
    for name, one in by_speaker.items():
        print(f"  speaker {name:12s} {interval_text(one['wa'])}  of {one['n_utterances']}")
    if args.out:
        about = {"encoder": encoder, "corpus": corpus.name, "c": args.c}
        write_json(args.out, {**about, "scores": scores, "speakers": by_speaker})
    return 0


def _averaged_frames(args: argparse.Namespace) -> tuple[Corpus, NDArray[Any], dict[str, Any]]:
    """Frames averaged over time, `(utterances, dim)`, and what the encoder is."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        if args.encoder == "random":
            args.encoder, args.cache = _untrained_encoder(Path(folder) / "random"), Path(folder) / "cache"
        corpus, features, reference = prepare.prepare_features(args)
        vectors = [np.asarray(features[i], np.float32).mean(axis=0) for i in range(len(corpus.utterances))]
        del features  # its files are mapped from the folder
    source = "random" if Path(reference.source).name == "random" else reference.source
    encoder = {"encoder": source, "layer": reference.layer, "dim": reference.dim}
    return corpus, np.stack(vectors), encoder | {"fingerprint": reference.fingerprint}


def _untrained_encoder(folder: Path) -> str:
    """DistilHuBERT's shape with random weights, always the same ones."""
    import torch

    from ser.runtime import import_torchaudio

    import_torchaudio()
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(40)
    HubertModel(HubertConfig(num_hidden_layers=2)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


def _functionals(args: argparse.Namespace) -> tuple[Corpus, NDArray[Any], dict[str, Any]]:
    """openSMILE's functionals, `(utterances, features)`, and which they are."""
    from ser.audio.load import load_audio
    from ser.features.extract import progress_bar
    from ser.features.opensmile import functionals

    corpus = prepare.read_corpus_arguments(args)
    total, report = len(corpus.utterances), progress_bar("functionals")
    recordings = (load_audio(one.path) for one in corpus.utterances)
    vectors = functionals(recordings, args.encoder, lambda done: report(done, total))
    return corpus, vectors, {"functionals": args.encoder, "dim": vectors.shape[1]}
