"""What the average of fold models is worth, on speakers that none of them has heard.

In: a prepared `Crossval`. For each of its folds, the speakers outside the test part are split into folds again, a model
is trained on each, and their average answers the test part: as many trainings as there are folds, squared. Out:
`predictions.csv` and `result.json` in a folder of its own, to be compared with those of the cross-validation itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.corpora.folds import Fold
from ser.errors import SettingsError
from ser.files import write_atomically, write_json
from ser.scoring.calibration import fit_temperature, softmax
from ser.scoring.metrics import score
from ser.training.crossval import Crossval, Stopped, predictions_table
from ser.training.lockstep import Lockstep
from ser.training.trainer import EpochReport


def cross_validate_ensemble(
    outer: Crossval, folder: Path, listener: Callable[[int, EpochReport], None], should_stop: Callable[[], bool]
) -> dict[str, Any]:  # fmt: skip
    """The result of the average of fold models, computed or, where the folder holds it, read.

    Args:
        outer: its folds are tested; nothing of its trainings is used.
        folder: for the result, and for the state of a run that was stopped.
        listener: called after each epoch of each training with the number of the outer fold.
        should_stop: asked after each epoch.

    Raises:
        FoldError: the speakers outside a test part cannot be split again.
        SettingsError: the folder holds another run.
        Stopped: `should_stop` said so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder / "run.json", outer.identity | {"nested": True})
    finished = folder / "result.json"
    if finished.exists():
        result: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return result
    every_fold = [inner_folds(outer, fold) for fold in outer.folds]
    probabilities, fold_of = (
        np.zeros((len(outer.targets), len(outer.labels))),
        np.zeros(len(outer.targets), int),
    )
    epochs = []
    for number, (fold, inner) in enumerate(zip(outer.folds, every_fold, strict=True)):
        heard = partial(listener, number)
        lockstep = _trained(outer, inner, folder / f"state_{number}", heard, should_stop)
        probabilities[list(fold.test)] = _average(lockstep, fold, outer.targets)
        fold_of[list(fold.test)] = number
        epochs.append(lockstep.best_epochs())
    return _written(outer, folder, probabilities, fold_of, epochs)


def inner_folds(outer: Crossval, fold: Fold) -> tuple[Fold, ...]:
    """Folds of all utterances but the test part's, as indices of the whole corpus; their test parts lie idle."""
    known = sorted((*fold.train, *fold.validation))
    utterances = tuple(outer.corpus.utterances[index] for index in known)
    inner = outer.settings.folds(replace(outer.corpus, utterances=utterances))
    return tuple(
        Fold(*(tuple(known[i] for i in part) for part in (one.train, one.validation, one.test)))
        for one in inner
    )


def _trained(
    outer: Crossval, folds: tuple[Fold, ...], states: Path, listener: Callable[[EpochReport], None],
    should_stop: Callable[[], bool],
) -> Lockstep:  # fmt: skip
    states.mkdir(exist_ok=True)
    settings = outer.settings
    lockstep = Lockstep(
        outer.features, outer.targets, folds, len(outer.labels), outer.encoder.dim, settings.classifier,
        settings.training,
    )  # fmt: skip
    lockstep.restore(states)

    def after_fold(number: int, report: EpochReport) -> None:
        lockstep.save(states, number)
        listener(report)
        if should_stop():
            raise Stopped(f"Stopped in epoch {report.epoch}. Run the same command again to go on.")

    while not lockstep.done:
        lockstep.run_epoch(after_fold)
    return lockstep


def _average(lockstep: Lockstep, fold: Fold, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """`(test utterances, labels)`: each model under the temperature of its own validation speakers, then the mean."""
    rows = []
    for inner, training in zip(lockstep.folds, lockstep.trainings, strict=True):
        held_out = training.logits(inner.validation)
        temperature = fit_temperature(held_out, targets[list(inner.validation)])
        rows.append(softmax(training.logits(fold.test), temperature))
    mean: NDArray[np.float64] = np.mean(rows, axis=0)
    return mean


def _written(
    outer: Crossval, folder: Path, probabilities: NDArray[np.float64], fold_of: NDArray[np.int64],
    epochs: list[list[int]],
) -> dict[str, Any]:  # fmt: skip
    speakers = [utterance.speaker for utterance in outer.corpus.utterances]
    result = {
        "kind": "nested",
        "protocol": outer.settings.protocol(len(outer.folds)) + "; the average of as many models, each "
        "trained on folds of the other speakers, answers each test part",
        **outer.identity,
        "labels": list(outer.labels),
        "pooled": score(outer.targets, probabilities, speakers, outer.labels).to_dict(),
        "folds": [{"best_epoch": one} for one in epochs],
    }
    table = predictions_table(outer.corpus, probabilities, fold_of)
    write_atomically(folder / "predictions.csv", table.encode())
    write_json(folder / "result.json", result)
    return result


def _claim(path: Path, identity: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, identity)
    elif json.loads(path.read_text(encoding="utf-8")) != identity:
        raise SettingsError(f"{path.parent} holds another run. Choose another folder, or delete that one.")
