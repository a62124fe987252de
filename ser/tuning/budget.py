"""The same search for each model of a comparison: as many trials for a baseline as for the Bi-GRU.

In: a storage, a number of trials. Out: a `Chooser` for `ser.experiments.comparison`. Each model is a study. The Bi-GRU
is searched in the paper's space with the paper's pruning, and seed 40 begins with the paper's best configuration; the
search of another network begins with the settings as given, and each of its trials runs to its own early stopping.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from ser.corpora.corpus import Corpus
from ser.errors import SettingsError
from ser.experiments.baselines import BaselineSettings
from ser.experiments.comparison import Encoded
from ser.training.settings import CrossvalSettings
from ser.tuning.sampler import sampler
from ser.tuning.search import NOT_NESTED, ChosenSettings, Event, Search, best_trial
from ser.tuning.space import TuningSettings, check_study_name, suggest, trial_settings
from ser.tuning.storage import IDENTITY, METRIC

Listener = Callable[[str, int, float | None], None]


def network_space(given: BaselineSettings) -> dict[str, BaseDistribution]:
    """What is varied of the other networks; `given` lies inside."""

    def among(name: str, *values: float) -> CategoricalDistribution:
        return CategoricalDistribution(sorted({*values, getattr(given, name)}))

    rate = given.learning_rate
    return {
        "width": among("width", 32, 64, 128),
        "learning_rate": FloatDistribution(min(0.0001, rate), max(0.01, rate), log=True),
        "batch_size": among("batch_size", 8, 16, 32),
        "dropout": FloatDistribution(0.0, max(0.5, given.dropout)),
        "weight_decay": among("weight_decay", 0.0, 0.0001, 0.001, 0.01, 0.1),
    }


@dataclass(frozen=True)
class EqualBudgets:
    """Searches of equal size, each a study in one storage.

    Attributes:
        storage: of the studies, which are named as the runs; a search that was stopped resumes.
        settings: number of trials, sampler and seed of each search.
        listener: called after each trial with the run, the trial's number and its accuracy; None where it was pruned.
        should_stop: asked after each epoch of the Bi-GRU; a comparison asks by itself for the others.
    """

    storage: BaseStorage
    settings: TuningSettings
    listener: Listener = lambda run, number, accuracy: None
    should_stop: Callable[[], bool] = lambda: False
    note = NOT_NESTED

    @property
    def n_trials(self) -> int:
        return self.settings.trials

    def bigru(self, run: str, corpus: Corpus, one: Encoded, given: CrossvalSettings) -> CrossvalSettings:
        """The best configuration of the paper's search; raises as `Search.run` does."""

        def heard(event: Event) -> None:
            if event.kind in ("complete", "pruned"):
                self.listener(run, event.number, event.value)

        search = Search(corpus, one.frames, one.reference, given, self.settings)
        study = search.open(self.storage, check_study_name(run))
        search.run(study, heard, self.should_stop)
        return ChosenSettings(**vars(trial_settings(given, best_trial(study).params)))

    def network(
        self, run: str, about: dict[str, Any], given: BaselineSettings, accuracy: Callable[[BaselineSettings], float]
    ) -> BaselineSettings:
        """The settings with the highest accuracy among `given` and others of `network_space`.

        Raises:
            SettingsError: the study of this name is of another corpus, encoder or other folds.
        """
        space = network_space(given)
        study = optuna.create_study(
            storage=self.storage, study_name=check_study_name(run), direction="maximize", load_if_exists=True
        )
        identity = json.loads(json.dumps({**about, "given": asdict(given)}))
        if not study.get_trials(deepcopy=False):
            study.set_metric_names([METRIC])
            study.set_user_attr(IDENTITY, identity)
        if study.user_attrs.get(IDENTITY) != identity:
            raise SettingsError(f"The search of {run} was made with something else; choose another folder.")

        first = {name: getattr(given, name) for name in space}
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.WAITING))
        if all(one.system_attrs.get("fixed_params") != first for one in done):  # also after a stop in their trial
            study.enqueue_trial(first)

        def objective(trial: optuna.Trial) -> float:
            value = accuracy(replace(given, **suggest(trial, space)))
            self.listener(run, trial.number, value)
            return value

        while (n_done := len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))) < self.n_trials:
            study.sampler = sampler(self.settings, self.settings.seed + n_done)
            study.optimize(objective, n_trials=1)
        return replace(given, **best_trial(study).params)
