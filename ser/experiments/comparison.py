"""Baselines beside the Bi-GRU on the same folds: figure 6 of the paper from the user's own data.

In: a corpus, encoders, names of `MODELS`. Out, in a folder: a sub-folder a model and encoder with `result.json` and
`predictions.csv`, and `compare.json` with `report.html` over all. What is finished is taken as it is, so a comparison
that was stopped or killed goes on with the next model.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.classifier.checkpoint import EncoderReference
from ser.corpora.corpus import Corpus
from ser.corpora.folds import Fold
from ser.errors import SettingsError
from ser.experiments.baselines import (
    BaselineSettings,
    CepstralCNN,
    ConformerHead,
    ListedFrames,
    ReducedLayers,
    Task,
    averages,
    cepstra,
    linear_svm,
    logistic_regression,
    network,
)
from ser.files import claim_folder, read_json, write_atomically, write_json
from ser.reporting.charts import ComparisonRow
from ser.runtime import library_versions
from ser.scoring.metrics import score
from ser.training.crossval import Crossval, Stopped
from ser.training.frames import FrameSource
from ser.training.run_folder import identity, predictions_table
from ser.training.settings import CrossvalSettings, settings_to_dict

# What figure 6 and the literature state, never measured here; protocols as the authors give them.
NOT_STATED, SHARED = "ShEMO, split not stated", "ShEMO, test speakers also in training"
PUBLISHED = tuple(
    ComparisonRow(name, value, published=True, protocol=protocol)
    for name, value, protocol in (
        (
            "the paper (2026): DistilHuBERT, Bi-GRU, Optuna",
            0.7877,
            "ShEMO, speakers apart, mean of five folds",
        ),
        ("emotion2vec, frozen, linear", 0.7997, NOT_STATED),
        ("CNN on fine-tuned wav2vec 2.0", 0.7968, NOT_STATED),
        ("Yazdani et al. 2021", 0.7829, NOT_STATED),
        ("SVM on eGeMAPS (Yazdani, Shekofteh 2022)", 0.7295, NOT_STATED),
        ("HuBERT-base (EmoBox)", 0.8117, SHARED),
        ("HuBERT-large (EmoBox)", 0.8335, SHARED),
    )
)
Listener = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Model:
    """One way from a recording to an emotion.

    Attributes:
        title: in tables and charts.
        needs: "frames" and "layers" of an encoder, "sound" alone, or functionals of openSMILE: "egemaps", "compare".
    """

    title: str
    needs: str

    @property
    def uses_encoder(self) -> bool:
        return self.needs in ("frames", "layers")


MODELS: dict[str, Model] = {
    "bigru": Model("Bi-GRU", "frames"),
    "mean_lr": Model("frames averaged, logistic regression", "frames"),
    "conformer": Model("Conformer", "frames"),
    "drm": Model("reduced layers, attention over layers", "layers"),
    "mfcc_cnn": Model("MFCC, 1D-CNN", "sound"),
    "egemaps_svm": Model("eGeMAPS, linear SVM", "egemaps"),
    "compare_svm": Model("ComParE, linear SVM", "compare"),
}


@dataclass(frozen=True)
class Encoded:
    """A corpus through one encoder; `layers` computes the frames of all its layers when they are asked for."""

    frames: FrameSource
    layers: Callable[[], FrameSource]
    reference: EncoderReference


@dataclass(frozen=True)
class CompareSettings:
    """What is compared: the folds and the Bi-GRU, and how the other networks are trained."""

    crossval: CrossvalSettings = CrossvalSettings()
    baseline: BaselineSettings = BaselineSettings()


def runnable(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of these models can run here, and why others cannot, in sentences.

    Raises:
        SettingsError: there is no such model.
    """
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise SettingsError(f"There is no model {', '.join(unknown)}; there are {', '.join(MODELS)}.")
    has_opensmile = importlib.util.find_spec("opensmile") is not None
    without = (
        [] if has_opensmile else [name for name in names if MODELS[name].needs in ("egemaps", "compare")]
    )
    return [name for name in names if name not in without], [
        f"{name} is left out: openSMILE is not installed. It is free for research alone: pip install opensmile"
        for name in without
    ]


def compare(
    corpus: Corpus, encoded: Sequence[Encoded], names: Sequence[str], settings: CompareSettings, folder: Path,
    listener: Listener = lambda run, fold, epoch: None, should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:  # fmt: skip
    """Run every model, those on frames with each encoder; returns the content of `compare.json`.

    Args:
        listener: called after each epoch with the name of the run, the number of the fold and the epoch.
        should_stop: asked after each fold, and by the Bi-GRU after each epoch.

    Raises:
        SettingsError: no such model, or the folder holds a comparison on another corpus or other folds.
        Stopped: `should_stop` said so; the same call goes on.
    """
    names, _ = runnable(names)
    folds = settings.crossval.folds(corpus)
    shared = identity(corpus, encoded[0].reference, settings.crossval)
    claim_folder(folder, {"settings": _of_folds(shared), "corpus": shared["corpus"]})
    rows: list[dict[str, Any]] = []
    content = {
        "kind": "compare",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "protocol": settings.crossval.protocol(len(folds)),
        "settings": settings_to_dict(settings),
        "corpus": shared["corpus"],
        "labels": list(corpus.emotions),
        "intervals": "95 %, bootstrap over speakers",
        "versions": library_versions(),
        "rows": rows,
    }
    for name, one in _runs(names, encoded):
        run = f"{name}-{_folder_of(one, encoded)}" if MODELS[name].uses_encoder else name
        result = _run(name, run, corpus, one, settings, folds, folder / run, listener, should_stop)
        scores = {key: result["pooled"][key] for key in ("wa", "uar", "macro_f1")}
        encoder = one.reference.source if MODELS[name].uses_encoder else None
        row = {"model": name, "title": _title(name, encoder), "encoder": encoder, "run": run, **scores}
        rows.append(row | {"seconds": result.get("seconds")})  # folders may be older than this figure
        write_json(folder / "compare.json", content)
        _write_report(content, folder / "report.html")
    return content


def comparison_rows(content: dict[str, Any]) -> list[ComparisonRow]:
    """What was measured, best first."""
    protocol = content["protocol"]
    return [
        ComparisonRow(
            row["title"], row["wa"]["value"], row["wa"]["low"], row["wa"]["high"], protocol=protocol
        )
        for row in sorted(content["rows"], key=lambda row: -row["wa"]["value"])
    ]


def slug(source: str) -> str:
    """An encoder's name as a part of a folder's."""
    return "".join(letter if letter.isalnum() else "_" for letter in source.strip("/").split("/")[-1])


def _folder_of(one: Encoded, encoded: Sequence[Encoded]) -> str:
    """An encoder's part of a folder's name; where two have the same, such as `encoder`, its fingerprint follows."""
    name = slug(one.reference.source)
    same = [other for other in encoded if slug(other.reference.source) == name]
    return f"{name}-{one.reference.fingerprint}" if len(same) > 1 else name


def _of_folds(shared: dict[str, Any]) -> dict[str, Any]:
    return {key: shared["settings"][key] for key in ("split", "n_folds", "validation_share", "seed")}


def _runs(names: Sequence[str], encoded: Sequence[Encoded]) -> Iterator[tuple[str, Encoded]]:
    for name in names:
        yield from ((name, one) for one in (encoded if MODELS[name].uses_encoder else encoded[:1]))


def _title(name: str, encoder: str | None) -> str:
    return f"{MODELS[name].title} ({encoder})" if encoder else MODELS[name].title


def _run(
    name: str, run: str, corpus: Corpus, encoded: Encoded, settings: CompareSettings, folds: Sequence[Fold],
    folder: Path, listener: Listener, should_stop: Callable[[], bool],
) -> dict[str, Any]:  # fmt: skip
    """The result of one model: what the folder holds, if that is finished, else computed."""
    finished = folder / "result.json"
    if name == "bigru":
        crossval = Crossval(corpus, encoded.frames, encoded.reference, settings.crossval, folder)
        if crossval.lockstep.done and finished.exists():
            return read_json(finished)
        begun = time.monotonic()
        result = crossval.run(
            lambda fold, report: listener(run, fold, report.epoch), should_stop, final=False
        )
        result["seconds"] = round(time.monotonic() - begun, 1)
        write_json(finished, result)
        return result
    about = identity(corpus, encoded.reference, settings.crossval)
    about = {"model": name, "baseline": settings_to_dict(settings.baseline), **about}
    for key in () if MODELS[name].uses_encoder else ("encoder",):
        about.pop(key)
    about["settings"] = _of_folds(about)
    claim_folder(folder, about)
    if finished.exists():
        return read_json(finished)
    begun = time.monotonic()
    probabilities, fold_of = _answers(name, run, corpus, encoded, settings, folds, listener, should_stop)
    speakers = [utterance.speaker for utterance in corpus.utterances]
    labels = tuple(corpus.emotions)
    result = {
        **about,
        "labels": list(labels),
        "pooled": score(corpus.targets, probabilities, speakers, labels).to_dict(),
        "seconds": round(time.monotonic() - begun, 1),
    }
    text = predictions_table(corpus, probabilities, fold_of)
    write_atomically(folder / "predictions.csv", text.encode())
    write_json(finished, result)
    return result


def _answers(
    name: str, run: str, corpus: Corpus, encoded: Encoded, settings: CompareSettings, folds: Sequence[Fold],
    listener: Listener, should_stop: Callable[[], bool],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:  # fmt: skip
    """Probabilities of every utterance by the fold that tests it, `(utterances, labels)`, and which fold that is."""
    targets, n_labels = corpus.targets, len(corpus.emotions)
    answer = _fitted(name, corpus, encoded, settings)
    probabilities, fold_of = np.zeros((len(targets), n_labels)), np.zeros(len(targets), dtype=np.int64)
    for number, fold in enumerate(folds):
        if should_stop():
            raise Stopped(f"Stopped before fold {number + 1} of {run}. Run the same command again to go on.")
        probabilities[list(fold.test)] = answer(
            targets, n_labels, fold, number, partial(listener, run, number)
        )
        fold_of[list(fold.test)] = number
    return probabilities, fold_of


def _fitted(name: str, corpus: Corpus, encoded: Encoded, settings: CompareSettings) -> Callable[..., Any]:
    """A function from one fold to the answers of its test part; what all folds share is computed here."""
    baseline, needs = settings.baseline, MODELS[name].needs
    if needs == "frames" or needs == "layers":
        source = encoded.frames if needs == "frames" else encoded.layers()
    else:
        source = ListedFrames(_of_sound(corpus, needs))
    vectors = None
    if name == "mean_lr" or name.endswith("_svm"):
        vectors = averages(source, len(corpus.utterances), baseline.max_frames)

    def answer(
        targets: NDArray[np.int64], n_labels: int, fold: Fold, number: int, heard: Callable[[int], None]
    ) -> NDArray[np.float64]:
        task = Task(source, targets, n_labels, fold, baseline, number)
        if vectors is not None:
            return (logistic_regression if name == "mean_lr" else linear_svm)(vectors, task)
        if name == "drm":
            n_layers = source.gather([0], 1)[0].shape[1]
            return network(partial(ReducedLayers, n_layers=n_layers), task, heard)
        return network(CepstralCNN if name == "mfcc_cnn" else ConformerHead, task, heard)

    return answer


def _of_sound(corpus: Corpus, needs: str) -> list[NDArray[np.float32]]:
    """Cepstra `(frames, 40)` of each utterance, or openSMILE's functionals `(1, features)`."""
    from ser.audio.load import load_audio
    from ser.features.opensmile import functionals

    sounds = (load_audio(utterance.path) for utterance in corpus.utterances)
    if needs == "sound":
        return [cepstra(samples) for samples in sounds]
    return list(functionals(sounds, needs)[:, None])


def _write_report(content: dict[str, Any], path: Path) -> None:
    """The page with figure 6: measured bars with intervals, published ones apart."""
    from ser.reporting.crossval_report import comparison_section
    from ser.reporting.page import page, paragraph

    corpus = content["corpus"]
    body = [
        paragraph(f"Protocol of what was measured: {content['protocol']}.", note=True),
        paragraph(
            f"{corpus['n_utterances']} recordings of {corpus['n_speakers']} speakers, the same folds for every model; "
            f"intervals {content['intervals']}. Published figures are of other data and protocols."
        ),
        comparison_section([asdict(row) for row in (*comparison_rows(content), *PUBLISHED)]),
    ]
    write_atomically(path, page(f"Methods compared on {corpus['name']}", body).encode())
