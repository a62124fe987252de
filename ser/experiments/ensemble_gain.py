"""Accuracy of the average of fold models, measured on speakers that none of them has heard.

In: a prepared `Crossval`. The speakers outside the test part of each of its folds are split into folds again, a model
is trained on each, and their average predicts the test part: as many trainings as there are folds, squared. Out:
`predictions.csv` and `result.json` in a folder of its own, to be compared with those of the cross-validation itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.corpora.folds import Fold
from ser.files import claim_folder, read_json, write_atomically, write_json
from ser.scoring.calibration import fit_temperature, softmax
from ser.scoring.metrics import score
from ser.training.crossval import Crossval, Stopped
from ser.training.lockstep import Lockstep
from ser.training.run_folder import predictions_table
from ser.training.trainer import EpochReport


def cross_validate_ensemble(
    outer: Crossval, folder: Path, listener: Callable[[int, EpochReport], None], should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Result of the average of fold models, computed or, where the folder holds it, read.

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
    claim_folder(folder, outer.run_folder.identity | {"nested": True})
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    every_fold = [outer.settings.folds(outer.corpus, fold) for fold in outer.folds]
    shape = len(outer.data.targets), outer.data.n_labels
    probabilities, fold_of, epochs = np.zeros(shape), np.zeros(shape[0], dtype=np.int64), []
    for number, (fold, inner) in enumerate(zip(outer.folds, every_fold, strict=True)):
        states = folder / f"state_{number}"
        lockstep = _trained(outer, inner, states, partial(listener, number), should_stop)
        probabilities[list(fold.test)] = _average(lockstep, fold)
        fold_of[list(fold.test)] = number
        epochs.append(lockstep.best_epochs())
    protocol = outer.run_folder.protocol
    result = {
        "kind": "nested",
        "protocol": f"{protocol}; the average of as many models, each trained on folds of the other speakers, "
        "answers each test part",
        **outer.run_folder.identity,
        "labels": list(outer.corpus.emotions),
        "pooled": score(outer.data.targets, probabilities, outer.data.speakers, outer.corpus.emotions).to_dict(),
        "folds": [{"best_epoch": one} for one in epochs],
    }
    table = predictions_table(outer.corpus, probabilities, fold_of)
    write_atomically(folder / "predictions.csv", table.encode())
    write_json(folder / "result.json", result)
    return result


def _trained(
    outer: Crossval,
    folds: tuple[Fold, ...],
    states: Path,
    listener: Callable[[EpochReport], None],
    should_stop: Callable[[], bool],
) -> Lockstep:
    states.mkdir(exist_ok=True)
    lockstep = Lockstep(outer.data, folds, outer.settings.classifier, outer.settings.training)
    lockstep.restore(states)

    def after_fold(number: int, report: EpochReport) -> None:
        lockstep.save(states, number)
        listener(report)
        if should_stop():
            raise Stopped(f"Stopped in epoch {report.epoch}. Run the same command again to resume.")

    while not lockstep.done:
        lockstep.run_epoch(after_fold)
    return lockstep


def _average(lockstep: Lockstep, fold: Fold) -> NDArray[np.float64]:
    """Mean probabilities `(test utterances, labels)`, each model at the temperature of its own validation speakers."""
    rows = []
    for inner, training in zip(lockstep.folds, lockstep.trainings, strict=True):
        held_out = training.logits(inner.validation)
        temperature = fit_temperature(held_out, training.targets[list(inner.validation)])
        rows.append(softmax(training.logits(fold.test), temperature))
    mean: NDArray[np.float64] = np.mean(rows, axis=0)
    return mean
