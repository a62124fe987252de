"""`ser export`: a model as one ONNX file, from a waveform to probabilities, for machines without torch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ser.cli.common import add_corpus_arguments, read_corpus_arguments
from ser.errors import SettingsError

if TYPE_CHECKING:
    from ser.corpora.corpus import Utterance
    from ser.inference.torch_engine import Predictor

TOLERANCE = 1e-4  # between the probabilities of torch and of the file
CHECK_S = (0.4, 1.0, 2.5, 6.0, 9.0)
SLACK_INT8 = 0.5  # beyond that the 8 bits have not cost a little, but broken something


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="output file, for instance model.onnx"
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="a trained model (default: the shipped one)"
    )
    parser.add_argument("--encoder", metavar="SRC", help="folder or hub id, if not where the checkpoint says")
    parser.add_argument("--int8", action="store_true", help="matrix products of the encoder in 8 bits")
    parser.add_argument("--licence", metavar="TEXT", help="a note that the file carries")
    add_corpus_arguments(parser, required=False)


def run(args: argparse.Namespace) -> int:
    if args.out.suffix.lower() != ".onnx":
        raise SettingsError(
            f"--out {args.out} must end in .onnx, which is how the other commands know the file."
        )
    from ser.classifier.checkpoint import load_checkpoint
    from ser.encoders.encoder import Encoder
    from ser.files import SHIPPED_CLASSIFIER
    from ser.inference.onnx_export import export_onnx
    from ser.inference.torch_engine import Predictor

    checkpoint, classifier = load_checkpoint(args.checkpoint or SHIPPED_CLASSIFIER)
    # Torch, so that the file is compared with something other than ONNX Runtime.
    source = args.encoder or checkpoint.encoder.source
    encoder = Encoder.load(source, checkpoint.encoder.layer, "cpu", "torch")
    predictor = Predictor(checkpoint, classifier, encoder.stacked(checkpoint.classifier.stacked_layers))
    path = export_onnx(predictor, args.out, args.licence, args.int8)
    furthest = _furthest(predictor, path)
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; probabilities within {furthest:.1e} of those of torch"
    )
    if args.corpus:
        print(_loss(predictor, path, read_corpus_arguments(args).utterances))
    return 0


def _loss(predictor: Predictor, path: Path, utterances: Sequence[Utterance]) -> str:
    """How the file's answers differ from torch's on labelled recordings, in sentences.

    Raises:
        SettingsError: no recording has an emotion that the model knows.
    """
    import numpy as np

    from ser.inference.onnx_engine import OnnxPredictor

    known = [one for one in utterances if one.emotion in predictor.labels]
    if not known:
        raise SettingsError(f"No recording of --corpus is labelled {', '.join(predictor.labels)}.")
    true = [one.emotion for one in known]
    answers, rows, ms = [], [], []
    for answer in (predictor, OnnxPredictor(path)):
        begun = time.perf_counter()
        results = [answer(one.path, timeline=False) for one in known]
        ms.append(1000 * (time.perf_counter() - begun) / len(known))
        answers.append([result.emotion for result in results])
        rows.append([list(result.probabilities.values()) for result in results])
    right = [100 * float(np.mean([a == b for a, b in zip(one, true, strict=True)])) for one in answers]
    same = 100 * float(np.mean([a == b for a, b in zip(*answers, strict=True)]))
    apart = float(np.abs(np.subtract(rows[0], rows[1])).max())
    return (
        f"On {len(known)} recordings: {right[0]:.1f} % right by torch, {right[1]:.1f} % by the file; "
        f"the same emotion for {same:.1f} %; probabilities within {apart:.1e}; "
        f"{ms[0]:.0f} and {ms[1]:.0f} ms a recording. "
        "(Where the model was trained on them, only the difference means something.)"
    )


def _furthest(predictor: Predictor, path: Path) -> float:
    """Largest difference of a probability between torch and the file, over noise of several lengths.

    Raises:
        CheckpointError: it is more than rounding, or for 8 bits more than a loss; the file is removed.
    """
    import numpy as np

    from ser.errors import CheckpointError
    from ser.inference.onnx_engine import OnnxPredictor

    exported = OnnxPredictor(path)
    allowed = SLACK_INT8 if exported.description["precision"] == "int8" else TOLERANCE
    rng, furthest = np.random.default_rng(40), 0.0
    for seconds in CHECK_S:
        clip = (0.1 * rng.standard_normal(round(seconds * 16_000))).astype(np.float32)
        ours, theirs = (one.classify(*one.encoder([clip])) for one in (predictor, exported))
        furthest = max(furthest, float(np.abs(np.subtract(ours, theirs)).max()))
    if not furthest <= allowed:
        path.unlink()
        raise CheckpointError(
            f"The exported model differs from torch by {furthest:.1e} in a probability; {path} was removed. "
            "Export without --int8, or report this with the output of: python -m ser info"
        )
    return furthest
