"""A trained classifier on disk: weights as safetensors and, beside them, one JSON that rebuilds everything.

`model.safetensors` holds the weights, `model.json` the labels, the settings, the encoder with its
fingerprint, the calibration, the scores with their conditions, the data's fingerprint, seed and versions.
Loading is strict: wrong keys, types, shapes or labels, weights of another file or a foreign encoder raise
`CheckpointError`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ser.classifier.settings import ClassifierSettings
from ser.errors import CheckpointError, SettingsError
from ser.files import SHIPPED_CLASSIFIER, write_atomically, write_json
from ser.scoring.calibration import Calibration

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ser.encoders.encoder import Encoder

FORMAT = "persian-ser checkpoint 1"
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
SHIPPED_SOURCE = "shipped"  # as an encoder's source: the one in checkpoints/encoder
Settings = TypeVar("Settings")
# JSON types that a field of each annotation may hold.
JSON_TYPES: dict[str, Any] = {"int": int, "str": str, "float": (int, float)}
JSON_TYPES["float | None"] = (int, float, type(None))


@dataclass(frozen=True)
class EncoderReference:
    """Encoder that a classifier was trained on.

    Attributes:
        source: a hub id, a folder, or "shipped".
        layer: the hidden layer.
        fingerprint: of weights, layer and normalisation.
        dim: feature dimension.
        engine: that computed the features, such as "torch"; engines agree but for rounding, so it is no part of the
            identity of a run. Empty where it was not recorded.
    """

    source: str
    layer: int
    fingerprint: str
    dim: int
    engine: str = field(default="", metadata={"may_be_absent": True})  # checkpoints are older


@dataclass(frozen=True)
class Checkpoint:
    """Everything about a trained classifier but its weights.

    Attributes:
        labels: emotions in the order of the logits.
        encoder: what it was trained on.
        classifier: its `ClassifierSettings`.
        max_frames: utterances were cut to this many frames in training.
        calibration: temperature and threshold.
        training: how it was trained, as a dictionary.
        scores: measured figures with the conditions they hold under.
        data: names, sizes and fingerprints of the corpora.
        seed: of the training.
        versions: of the libraries.
        members: classifiers whose probabilities are averaged; 1 is a single one.
    """

    labels: tuple[str, ...]
    encoder: EncoderReference
    classifier: ClassifierSettings
    max_frames: int = 300
    calibration: Calibration = Calibration()
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 40
    versions: Mapping[str, str] = field(default_factory=dict)
    members: int = 1


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint, model: nn.Module) -> Path:
    """Write weights and description into a folder; each file appears whole or not at all."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()})
    digest = hashlib.sha256(weights).hexdigest()
    write_atomically(folder / WEIGHTS, weights)
    write_json(folder / DESCRIPTION, {"format": FORMAT, "weights_sha256": digest} | asdict(checkpoint))
    return folder


def read_description(folder: str | Path = SHIPPED_CLASSIFIER) -> Checkpoint:
    """The description of a checkpoint, without its weights.

    Raises:
        CheckpointError: there is none, or it does not say what is needed.
    """
    return _described(Path(folder))[0]


def load_checkpoint(folder: str | Path = SHIPPED_CLASSIFIER) -> tuple[Checkpoint, nn.Module]:
    """Rebuild a classifier from its folder, in evaluation mode.

    Raises:
        CheckpointError: files are missing or damaged, do not belong together, or hold other keys or shapes.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from ser.classifier.bigru import BiGRUClassifier
    from ser.classifier.ensemble import Ensemble

    folder = Path(folder)
    checkpoint, expected_sha256 = _described(folder)
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
        state = load(content)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}). Copy the folder again.") from error
    if hashlib.sha256(content).hexdigest() != expected_sha256:
        raise CheckpointError(
            f"{path} is not the file that {DESCRIPTION} beside it describes. Copy the folder again, whole."
        )
    n_layers = checkpoint.classifier.gru_layers * checkpoint.members
    if n_layers > len(state):  # before as many layers are built
        raise CheckpointError(f"{path} holds {len(state)} tensors, too few for {n_layers} GRU layers.")
    shape = checkpoint.encoder.dim, len(checkpoint.labels), checkpoint.classifier
    try:
        with torch.device("meta"):  # no memory is taken before the shapes are known to fit
            model: nn.Module = (
                Ensemble(*shape, checkpoint.members) if checkpoint.members > 1 else BiGRUClassifier(*shape)
            )
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes below zero or beyond any memory
        raise CheckpointError(
            f"{folder / DESCRIPTION} describes no possible classifier: feature dimension "
            f"{checkpoint.encoder.dim}, {checkpoint.classifier}."
        ) from error
    _check_state(model.state_dict(), state, path)
    model.load_state_dict(state, assign=True)
    return checkpoint, model.eval()


def check_encoder(checkpoint: Checkpoint, encoder: Encoder) -> None:
    """Refuse an encoder that the classifier was not trained on.

    Raises:
        CheckpointError: the fingerprints differ.
    """
    expected = checkpoint.encoder
    if encoder.fingerprint != expected.fingerprint:
        raise CheckpointError(
            f"This checkpoint was trained on the encoder {expected.source}, layer {expected.layer} "
            f"(fingerprint {expected.fingerprint}), not on {encoder.name}, layer {encoder.layer} "
            f"({encoder.fingerprint}). Give that encoder, or train anew on this one."
        )


def _described(folder: Path) -> tuple[Checkpoint, str]:
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint in {folder}: {DESCRIPTION} is missing.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}). Copy the folder again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} is not of the format {FORMAT!r} but {found!r}.")
    try:
        return _checkpoint(content), str(content["weights_sha256"])
    except KeyError as error:
        raise CheckpointError(
            f"{path} lacks the entry {error}. It was written by another program, or cut."
        ) from error
    except (SettingsError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds a setting that makes no sense: {error}") from error


def _checkpoint(content: dict[str, Any]) -> Checkpoint:
    labels = content["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise ValueError(f"labels must be a list of names, got {labels!r}.")
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise ValueError(f"labels must be at least two different names, got {labels!r}.")
    if type(content["max_frames"]) is not int or content["max_frames"] < 1:
        raise ValueError(f"max_frames must be a positive whole number, got {content['max_frames']!r}.")
    if type(content["seed"]) is not int:
        raise ValueError(f"seed must be a whole number, got {content['seed']!r}.")
    members = content.get("members", 1)  # checkpoints are older
    if type(members) is not int or members < 1:
        raise ValueError(f"members must be a positive whole number, got {members!r}.")
    for key in ("training", "scores", "data", "versions"):
        if not isinstance(content[key], dict):
            raise ValueError(f"{key} must be an object, got {content[key]!r}.")
    return Checkpoint(
        labels=tuple(labels),
        encoder=_dataclass(EncoderReference, content["encoder"]),
        classifier=_dataclass(ClassifierSettings, content["classifier"]),
        max_frames=content["max_frames"],
        members=members,
        calibration=_dataclass(Calibration, content["calibration"]),
        **{key: content[key] for key in ("training", "scores", "data", "seed", "versions")},
    )


def _dataclass(kind: type[Settings], content: dict[str, Any]) -> Settings:
    """A dataclass from exactly its own entries, each of its own type."""
    names = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    newer = {entry.name for entry in fields(kind) if entry.metadata.get("may_be_absent")}  # type: ignore[arg-type]
    if not isinstance(content, dict) or not names - newer <= set(content) <= names:
        raise ValueError(f"{kind.__name__} needs exactly the entries {sorted(names)}, got {content!r}.")
    for entry in (one for one in fields(kind) if one.name in content):  # type: ignore[arg-type]
        value, allowed = content[entry.name], JSON_TYPES.get(str(entry.type))
        if allowed and (isinstance(value, bool) or not isinstance(value, allowed)):
            raise ValueError(f"{entry.name} of {kind.__name__} must be {entry.type}, got {value!r}.")
    return kind(**content)


def _check_state(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], path: Path) -> None:
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or extra:
        raise CheckpointError(
            f"{path} does not hold this classifier's weights: "
            f"missing {sorted(missing) or 'none'}, unknown {sorted(extra) or 'none'}."
        )
    for key, tensor in expected.items():
        if found[key].shape != tensor.shape or found[key].dtype != tensor.dtype:
            raise CheckpointError(
                f"{path}: {key} is {found[key].dtype} of the shape {tuple(found[key].shape)}; "
                f"the settings beside it call for {tensor.dtype}, {tuple(tensor.shape)}."
            )
        if not bool(found[key].isfinite().all()):
            raise CheckpointError(f"{path}: {key} holds numbers that are not finite. Train again.")
