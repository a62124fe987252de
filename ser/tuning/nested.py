"""What it is worth to choose a configuration on folds whose speakers it is then tested on.

In: a `Search`. Out: a study for each of its folds, which searches among the speakers outside the test part, by folds of
these; in the study's folder `nested.csv` and `nested.json`: each fold's own best configuration, trained as the fold
says and tested once on the speakers that neither its training nor its search has heard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from ser.errors import Stopped
from ser.files import read_json, write_atomically, write_json
from ser.scoring.metrics import score, scores_by
from ser.scoring.predictions import leak_premium, read_predictions
from ser.training.lockstep import Lockstep
from ser.training.run_folder import Tested, identity, predictions_table
from ser.training.trainer import EpochReport, Training
from ser.tuning.search import STOPPED, Search, best_trial
from ser.tuning.space import trial_settings

NESTED = "each fold is tested with the best configuration of a search among the other speakers only"

Outer = Sequence[tuple[Search, Study]]


def outer_searches(search: Search, storage: BaseStorage, name: str) -> Outer:
    """A search and its study for each fold of a search.

    Raises:
        FoldError: the speakers outside a test part cannot be split again.
    """
    folds = search.base.folds(search.corpus)
    searches = [replace(search, test_fold=fold) for fold in folds]
    return [(one, one.open(storage, f"{name}-outer{n}")) for n, one in enumerate(searches, start=1)]


def score_nested(
    outer: Outer,
    folder: Path,
    tuned: Path,
    listener: Callable[[int, EpochReport], None],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Content of `nested.json`; what was tested before is not tested again.

    Args:
        outer: as `outer_searches` returned it, searched.
        folder: of the study.
        tuned: the run folder of the study's best trial, on the same folds.
        listener: called with the number of the fold and each of its reports.
        should_stop: asked after each epoch.

    Raises:
        JobError: no trial of a fold was completed.
        Stopped: `should_stop` said so.
    """
    best, path = [best_trial(study) for _, study in outer], folder / "nested.json"
    if path.exists() and [one["trial"] for one in read_json(path)["folds"]] == [one.number for one in best]:
        return read_json(path)
    search, _ = outer[0]
    data, labels = search.data, search.corpus.emotions
    folds = search.base.folds(search.corpus)
    tested = Tested.of(data, folds, _trained(outer, best, listener, should_stop))
    probabilities, fold_of = tested.probabilities, tested.fold_of
    table = folder / "nested.csv"
    write_atomically(table, predictions_table(search.corpus, probabilities, fold_of).encode())
    by_fold = scores_by([f"{n:03d}" for n in fold_of], data.targets, probabilities, data.speakers, labels)
    result = {
        "protocol": f"{search.base.protocol(len(outer))}; {NESTED}",
        **identity(search.corpus, search.encoder, search.base),
        "labels": list(labels),
        "majority_share": float(np.bincount(data.targets).max() / len(data.targets)),
        "pooled": score(data.targets, probabilities, data.speakers, labels).to_dict(),
        "folds": [
            {"study": study.study_name, "trial": trial.number, "parameters": trial.params, "value": trial.value}
            | scores.to_dict()
            for (_, study), trial, scores in zip(outer, best, by_fold.values(), strict=True)
        ],
        "tuned_minus_nested": leak_premium(
            read_predictions(tuned / "predictions.csv"), read_predictions(table), labels
        ),
    }
    write_json(path, result)
    return result


def _trained(
    outer: Outer,
    best: Sequence[FrozenTrial],
    listener: Callable[[int, EpochReport], None],
    should_stop: Callable[[], bool],
) -> list[Training]:
    """The training of each fold with its own best configuration, ended."""
    search, _ = outer[0]
    lockstep = Lockstep(search.data, (), search.base.classifier, search.base.training)
    for number, (fold, trial) in enumerate(zip(search.base.folds(search.corpus), best, strict=True)):
        own = trial_settings(search.base, trial.params)
        lockstep.trainings.append(
            Training(search.data, fold.train, fold.validation, own.classifier, own.training, stream=number)
        )

    def after_fold(number: int, report: EpochReport) -> None:
        listener(number, report)
        if should_stop():
            raise Stopped(STOPPED)

    while not lockstep.done:
        lockstep.run_epoch(after_fold)
    return lockstep.trainings
