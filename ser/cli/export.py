"""`ser export`: a model as one ONNX file, from a waveform to probabilities, for machines without torch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ser.cli.arguments import add_corpus_arguments
from ser.cli.prepare import read_corpus_arguments
from ser.errors import SettingsError

if TYPE_CHECKING:
    from ser.corpora.corpus import Utterance
    from ser.encoders.encoder import Encoder
    from ser.inference.recogniser import Recogniser

TOLERANCE = 1e-4  # between the probabilities of torch and of the file
CHECK_S = (0.4, 1.0, 2.5, 6.0, 9.0)
SLACK_INT8 = 0.5  # beyond that the 8 bits have not cost a little, but broken something


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-o", "--out", type=Path, metavar="FILE", help="output file, for instance model.onnx")
    what.add_argument(
        "--encoder-graph",
        action="store_true",
        help="only the encoder's graph, into the encoder's own folder beside its weights: answers then need no torch",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a trained model (default: the shipped one)")
    parser.add_argument("--encoder", metavar="SRC", help="folder or hub id, if not where the checkpoint says")
    parser.add_argument("--int8", action="store_true", help="matrix products of the encoder in 8 bits")
    parser.add_argument("--licence", metavar="TEXT", help="a note that the file carries")
    add_corpus_arguments(parser, required=False)


def run(args: argparse.Namespace) -> int:
    if args.out and args.out.suffix.lower() != ".onnx":
        raise SettingsError(f"--out {args.out} must end in .onnx, which is how the other commands know the file.")
    from ser.classifier.checkpoint import check_encoder, read_state
    from ser.encoders.encoder import Encoder
    from ser.files import SHIPPED_CLASSIFIER
    from ser.inference.export import export_onnx

    folder = args.checkpoint or SHIPPED_CLASSIFIER
    checkpoint, state = read_state(folder)
    # Torch, so that the file is compared with something other than ONNX Runtime.
    source = args.encoder or checkpoint.encoder.source
    encoder = Encoder.load(source, checkpoint.encoder.layer, "cpu", "torch")
    encoder = encoder.stacked(checkpoint.classifier.stacked_layers)
    check_encoder(checkpoint, encoder)
    if args.encoder_graph:
        path = encoder.write_graph()
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, which share the weights beside it")
        return 0
    path = export_onnx(checkpoint, state, encoder, args.out, args.licence, args.int8)
    furthest = _furthest(folder, encoder, path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; probabilities within {furthest:.1e} of those of torch")
    if args.corpus:
        from ser import load

        print(_loss(load(folder, encoder), path, read_corpus_arguments(args).utterances))
    return 0


def _loss(model: Recogniser, path: Path, utterances: Sequence[Utterance]) -> str:
    """How the file's answers differ from the checkpoint's on labelled recordings, in sentences.

    Raises:
        SettingsError: no recording has an emotion that the model knows.
    """
    import numpy as np

    from ser.inference.model_file import open_model_file

    known = [one for one in utterances if one.emotion in model.labels]
    if not known:
        raise SettingsError(f"No recording of --corpus is labelled {', '.join(model.labels)}.")
    true = [one.emotion for one in known]
    answers, rows, ms = [], [], []
    for answer in (model, open_model_file(path)):
        begun = time.perf_counter()
        results = [answer(one.path, timeline=False) for one in known]
        ms.append(1000 * (time.perf_counter() - begun) / len(known))
        answers.append([result.emotion for result in results])
        rows.append([list(result.probabilities.values()) for result in results])
    right = [100 * float(np.mean([a == b for a, b in zip(one, true, strict=True)])) for one in answers]
    same = 100 * float(np.mean([a == b for a, b in zip(*answers, strict=True)]))
    apart = float(np.abs(np.subtract(rows[0], rows[1])).max())
    return (
        f"On {len(known)} recordings: {right[0]:.1f} % right by the checkpoint, {right[1]:.1f} % by the file; "
        f"the same emotion for {same:.1f} %; probabilities within {apart:.1e}; "
        f"{ms[0]:.0f} and {ms[1]:.0f} ms a recording. "
        "(Where the model was trained on them, only the difference means something.)"
    )


def _furthest(folder: Path, encoder: Encoder, path: Path) -> float:
    """Largest difference of a probability between torch and the file, over noise of several lengths.

    Raises:
        CheckpointError: it is more than rounding, or for 8 bits more than a loss; the file is removed.
    """
    import numpy as np
    import torch

    from ser.classifier.checkpoint import load_checkpoint
    from ser.errors import CheckpointError
    from ser.features.reduce import averaged
    from ser.inference.model_file import open_model_file, read_file_description

    checkpoint, classifier = load_checkpoint(folder)
    exported = open_model_file(path)
    allowed = SLACK_INT8 if read_file_description(path)["precision"] == "int8" else TOLERANCE
    rng, furthest = np.random.default_rng(40), 0.0
    for seconds in CHECK_S:
        clip = (0.1 * rng.standard_normal(round(seconds * 16_000))).astype(np.float32)
        frames, theirs = (
            averaged(one([clip])[0], exported.averaged_frames)[: exported.max_frames]
            for one in (encoder, exported.encoder)
        )
        with torch.inference_mode():
            logits = classifier(torch.from_numpy(frames), torch.tensor([len(frames)]))
        ours = (logits / checkpoint.calibration.temperature).softmax(dim=-1)[0].numpy()
        furthest = max(furthest, float(np.abs(ours - exported.classify(theirs)).max()))
    if not furthest <= allowed:
        path.unlink()
        raise CheckpointError(
            f"The exported model differs from torch by {furthest:.1e} in a probability; {path} was removed. "
            "Export without --int8, or report this with the output of: ser info"
        )
    return furthest
