"""`ser info`: versions, device, feature cache, encoder, model and the model's scores."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", type=Path, help="a trained model or an ONNX file (default: the shipped one)"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="same as the positional argument")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> int:
    from ser.files import SHIPPED_CLASSIFIER
    from ser.inference.model_file import is_model_file

    model = args.model or args.checkpoint or SHIPPED_CLASSIFIER
    content = gather_file(model) if is_model_file(model) else gather(model)
    print(json.dumps(content, indent=2) if args.json else "\n".join(_lines(content)))
    return int(bool(content["model"]["problem"]))


def gather(folder: Path) -> dict[str, Any]:
    """All that the command tells, as plain values; what is missing has a `problem` that says so."""
    import torch

    from ser import __version__
    from ser.features.cache import FeatureCache
    from ser.runtime import library_versions

    cuda = torch.cuda.is_available()
    return {
        "versions": {"ser": __version__} | library_versions(),
        "device": {
            "cpu_cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(0) if cuda else None,
        },
        "cache": str(FeatureCache().folder),
        **_model(folder),
    }


def gather_file(path: Path) -> dict[str, Any]:
    """The same for an exported model; neither torch nor transformers is asked."""
    from ser import __version__
    from ser.errors import CheckpointError
    from ser.inference.model_file import open_model_file, read_file_description
    from ser.runtime import library_versions

    content: dict[str, Any] = {"versions": {"ser": __version__} | library_versions()}
    try:
        open_model_file(path)
        about = read_file_description(path)
    except CheckpointError as error:
        return content | {"model": {"folder": str(path), "problem": str(error)}}
    described = about["checkpoint"]
    apart = {"encoder": described.pop("encoder"), "scores": described.pop("scores")}
    apart |= {key: about[key] for key in ("precision", "licence")}
    return content | {"model": {"folder": str(path), "problem": None} | described} | apart


def _model(folder: Path) -> dict[str, Any]:
    """The checkpoint in a folder, and the encoder that it needs."""
    from ser.classifier.checkpoint import read_state
    from ser.errors import SerError

    try:
        checkpoint, state = read_state(folder)
    except SerError as error:
        return {"model": {"folder": str(folder), "problem": str(error)}}
    described = asdict(checkpoint)
    reference, scores = described.pop("encoder"), described.pop("scores")
    described["parameters"] = sum(weights.size for weights in state.values())
    described["problem"] = None
    encoder = reference | {"problem": _encoder_problem(checkpoint)}
    return {"model": {"folder": str(folder)} | described, "encoder": encoder, "scores": scores}


def _encoder_problem(checkpoint: Any) -> str | None:
    """Why the checkpoint's encoder cannot be used; None where it is here and the right one."""
    from ser.encoders.graph import GraphEncoder
    from ser.encoders.hub import is_here
    from ser.errors import SerError
    from ser.inference.load import encoder_of

    reference = checkpoint.encoder
    if not is_here(reference.source) and not GraphEncoder.find(reference.fingerprint, reference.source):
        return f"{reference.source} is not on this machine; with a network: hf download {reference.source}"
    try:
        encoder_of(checkpoint)
    except SerError as error:
        return str(error)
    return None


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    for key, value in content.items():
        if key == "model":
            yield from _model_lines(value)
        elif key == "scores":
            yield "scores"
            yield from _score_lines(value)
        elif isinstance(value, Mapping):
            yield f"{key:10s} " + ", ".join(f"{name} {entry}" for name, entry in value.items() if entry is not None)
        else:
            yield f"{key:10s} {value or 'not found'}"


def _model_lines(model: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'model':10s} {model['folder']}"
    if model["problem"]:
        yield f"  problem: {model['problem']}"
        return
    calibration = model["calibration"]
    yield f"  emotions: {', '.join(model['labels'])}"
    yield f"  classifier: {', '.join(f'{key} {value}' for key, value in model['classifier'].items())}"
    data = model["data"]
    size = f" ({data['n_utterances']} utterances, {data['n_speakers']} speakers)" if "n_speakers" in data else ""
    corpus = data.get("name", "unknown data")
    size_of = f"{model['parameters']:,} parameters, " if "parameters" in model else ""
    yield f"  {size_of}trained with seed {model['seed']} on {corpus}{size}"
    precision, coverage = calibration["precision"], calibration["coverage"]
    known = precision is not None and coverage is not None  # none was sure, or none measured
    worth = f"; else right in {precision:.0%} of answers, on {coverage:.0%} of clips" if known else ""
    threshold = calibration["threshold"]
    unsure = "of every answer" if threshold > 1 else f"below {threshold:.2f}"
    yield f"  says unsure {unsure}{worth}"


def _score_lines(scores: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    if not scores:
        yield f"{indent}none measured"
    for key, value in scores.items():
        if isinstance(value, Mapping) and isinstance(value.get("value"), int | float):
            low, high = value.get("low"), value.get("high")
            interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
            yield f"{indent}{key} {value['value']:.3f}{interval}"
        elif isinstance(value, Mapping):
            yield f"{indent}{key}"
            yield from _score_lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {value}"
