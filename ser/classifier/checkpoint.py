"""A trained classifier on disk: its weights in `model.safetensors`, and in `model.json` a `Checkpoint`.

Loading is strict: wrong keys, types, shapes or labels, weights of another file or a foreign encoder raise
`CheckpointError`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ser.classifier.settings import AXES_BUFFERS, FUNCTIONALS_BUFFERS, VOICE_BUFFERS, ClassifierSettings
from ser.errors import CheckpointError, SettingsError
from ser.files import SHIPPED_CLASSIFIER, write_atomically, write_json
from ser.scoring.calibration import Calibration

if TYPE_CHECKING:
    from torch import nn

    from ser.encoders.encoder import Encoder

FORMAT = "persian-ser checkpoint 1"
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
Kind = TypeVar("Kind")
State: TypeAlias = Mapping[str, NDArray[np.float32]]  # weights by name


@dataclass(frozen=True)
class EncoderReference:
    """Encoder that a classifier was trained on.

    Attributes:
        source: what `Encoder.load` takes: a hub id, an absolute path, or "shipped".
        layer: the hidden layer.
        fingerprint: of weights, configuration, layer and normalisation.
        dim: feature dimension.
        engine: that computed the features, such as "torch 2.13.0"; engines agree but for rounding, so it is no part of
            the identity of a run. Empty where it was not recorded.
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
        encoder, classifier, calibration: what it was trained on, its shape, temperature and threshold.
        max_frames: utterances were cut to this many frames in training.
        training: how it was trained.
        scores: measured figures with the conditions they hold under.
        data: names, sizes and fingerprints of the corpora.
        seed, versions: of the training, and of what it was computed with.
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
    members: int = field(default=1, metadata={"may_be_absent": True})  # checkpoints are older

    def __post_init__(self) -> None:
        labels = self.labels
        if not all(isinstance(label, str) and label for label in labels) or len(set(labels)) < max(2, len(labels)):
            raise SettingsError(f"labels must be at least two different names, got {list(labels)!r}.")
        if min(self.max_frames, self.members) < 1:
            raise SettingsError(f"max_frames and members must be at least 1, got {self.max_frames} and {self.members}.")

    @property
    def frames_fingerprint(self) -> str:
        """What identifies the frames that the classifier gets: of the encoder, and of what is made of its frames."""
        return f"{self.encoder.fingerprint} {self.classifier.averaged_frames}"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the names of each member's weights begin with."""
        return ("",) if self.members == 1 else tuple(f"members.{n}." for n in range(self.members))


# JSON types of a field by its annotation; the others are checked by their own class.
JSON_TYPES: dict[str, Any] = {"int": int, "str": str, "float": (int, float), "tuple": list, "Mapping": dict}
JSON_TYPES["float | None"] = (int, float, type(None))
NESTED = {kind.__name__: kind for kind in (EncoderReference, ClassifierSettings, Calibration)}


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint, model: nn.Module) -> Path:
    """Write weights and description into a folder; each file appears whole or not at all."""
    from safetensors.numpy import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({key: value.detach().cpu().contiguous().numpy() for key, value in model.state_dict().items()})
    digest = hashlib.sha256(weights).hexdigest()
    write_atomically(folder / WEIGHTS, weights)
    write_json(folder / DESCRIPTION, {"format": FORMAT, "weights_sha256": digest} | asdict(checkpoint))
    return folder


def read_description(folder: str | Path = SHIPPED_CLASSIFIER) -> Checkpoint:
    """Description of a checkpoint, without its weights.

    Raises:
        CheckpointError: there is none, or it does not say what is needed.
    """
    return _described(Path(folder))[0]


def read_fingerprint(folder: str | Path = SHIPPED_CLASSIFIER) -> str:
    """First 16 hex digits of the SHA-256 of a checkpoint's weights.

    Raises:
        CheckpointError: as `read_description`.
    """
    return _described(Path(folder))[1][:16]


def read_state(folder: str | Path = SHIPPED_CLASSIFIER) -> tuple[Checkpoint, State]:
    """Description and weights of a checkpoint, by name, without torch.

    Raises:
        CheckpointError: files are missing or damaged, do not belong together, or hold other keys or shapes.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(folder) / WEIGHTS
    checkpoint, expected_sha256 = _described(path.parent)
    try:
        content = path.read_bytes()
        state = load(content)
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}). Copy the folder again.") from error
    if hashlib.sha256(content).hexdigest() != expected_sha256:
        raise CheckpointError(
            f"{path} is not the file that {DESCRIPTION} beside it describes. Copy the folder again, whole."
        )
    n_layers = checkpoint.classifier.gru_layers * checkpoint.members
    if n_layers > len(state):  # before as many layers are described
        raise CheckpointError(f"{path} holds {len(state)} tensors, too few for {n_layers} GRU layers.")
    _check_state(_shapes(checkpoint), state, path)
    return checkpoint, state


def load_checkpoint(folder: str | Path = SHIPPED_CLASSIFIER) -> tuple[Checkpoint, nn.Module]:
    """Rebuild a classifier from its folder, in evaluation mode.

    Raises:
        CheckpointError: as `read_state`.
    """
    import torch

    from ser.classifier.bigru import BiGRUClassifier
    from ser.classifier.ensemble import Ensemble

    checkpoint, state = read_state(folder)
    shape = checkpoint.encoder.dim, len(checkpoint.labels), checkpoint.classifier
    several = checkpoint.members > 1
    model: nn.Module = Ensemble(*shape, checkpoint.members) if several else BiGRUClassifier(*shape)
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()})
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


def checkpoint_from(content: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint from its entries as JSON has them; others beside them are not read.

    Raises:
        KeyError: an entry is missing.
        SettingsError, TypeError, ValueError: one makes no sense.
    """
    known = {entry.name for entry in fields(Checkpoint)}
    return _read(Checkpoint, {key: value for key, value in content.items() if key in known})


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
        return checkpoint_from(content), str(content["weights_sha256"])
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the entry {error}. It was written by another program, or cut.") from error
    except (SettingsError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds a setting that makes no sense: {error}") from error


def _read(kind: type[Kind], content: Any) -> Kind:
    """A dataclass from exactly its own entries, each of its own type; KeyError names one that is missing."""
    entries = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(content, dict) or content.keys() - entries.keys():
        raise ValueError(f"{kind.__name__} has the entries {sorted(entries)}, got {content!r}.")
    values: dict[str, Any] = {}
    for name, entry in entries.items():
        if name not in content and entry.metadata.get("may_be_absent"):
            continue
        value, annotation = content[name], str(entry.type)
        allowed = JSON_TYPES.get(annotation.split("[")[0], object)
        if annotation in NESTED:
            value = _read(NESTED[annotation], value)
        elif not isinstance(value, allowed) or (allowed is not object and isinstance(value, bool)):
            raise ValueError(f"{name} of {kind.__name__} must be {annotation}, got {value!r}.")
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def weight_shapes(settings: ClassifierSettings, dim: int, n_labels: int) -> dict[str, tuple[int, ...]]:
    """What the weights of a classifier are called, and their shapes."""
    whole, width = dim * max(1, settings.concatenated_layers), settings.width(dim)
    inputs = [width, *(2 * units for units in settings.units)]
    pooled = inputs[-1] * (2 if settings.pooling == "attentive" else 1)
    shapes: dict[str, tuple[int, ...]] = {"norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"dense.weight": (n_labels, pooled), "dense.bias": (n_labels,)}
    for number, (size, units) in enumerate(zip(inputs, settings.units, strict=False)):
        for name, last in (("weight_ih", (size,)), ("weight_hh", (units,)), ("bias_ih", ()), ("bias_hh", ())):
            shapes[f"gru.{number}.{name}"] = (2, 3 * units, *last)
    if settings.components:
        shapes |= dict(zip(AXES_BUFFERS, ((whole,), (whole, width)), strict=True))
    if settings.weighted_layers:
        shapes["layer_weights"] = (settings.weighted_layers,)
    if settings.pooling == "attentive":
        shapes |= {"attention.weight": (1, inputs[-1]), "attention.bias": (1,)}
    if settings.voices:
        stacked = (settings.stacked_layers,) if settings.stacked_layers else ()
        shapes |= dict.fromkeys(VOICE_BUFFERS, (*stacked, dim))
    if settings.functionals:
        shapes |= dict.fromkeys(FUNCTIONALS_BUFFERS, (2 * width,))
        shapes |= {"linear.weight": (n_labels, 2 * width), "linear.bias": (n_labels,)}
    return shapes


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The same of a checkpoint, which may hold the members of an ensemble."""
    shapes = weight_shapes(checkpoint.classifier, checkpoint.encoder.dim, len(checkpoint.labels))
    if checkpoint.members == 1:
        return shapes
    each = {f"{prefix}{name}": shape for prefix in checkpoint.prefixes for name, shape in shapes.items()}
    return each | {"temperatures": (checkpoint.members,)}


def _check_state(expected: Mapping[str, tuple[int, ...]], found: State, path: Path) -> None:
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or extra:
        raise CheckpointError(
            f"{path} does not hold this classifier's weights: "
            f"missing {sorted(missing)[:5] or 'none'}, unknown {sorted(extra)[:5] or 'none'}."
        )
    for key, shape in expected.items():
        if found[key].shape != shape or found[key].dtype != np.float32:
            raise CheckpointError(
                f"{path}: {key} is {found[key].dtype} of the shape {found[key].shape}; "
                f"the settings beside it call for float32, {shape}."
            )
        if not np.isfinite(found[key]).all():
            raise CheckpointError(f"{path}: {key} holds numbers that are not finite. Train again.")
