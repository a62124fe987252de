"""What draws the parameters of a trial, the same whichever worker asks.

In: how to search, the search space. Out: `sampler`, Optuna's own; `ByNumber`, one that several workers can share.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from ser.tuning.space import Space, TuningSettings, suggest
from ser.tuning.storage import FINISHED, RETRY_OF, first_number


class ByNumber(BaseSampler):
    """Draws what one sampler that was never stopped, with no worker beside it, would draw at the trial's place.

    The place follows from the trial's number, which no other trial has: workers never repeat each other's draws.
    """

    def __init__(self, settings: TuningSettings, space: Space) -> None:
        self.settings, self.space = settings, space
        self.inner, self.place = sampler(settings, settings.seed), 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        number = first_number(trial)
        everyone = {first_number(one): one for one in study.get_trials(deepcopy=False)}
        before = [one for first, one in everyone.items() if first < number]
        if len(before) != self.place:
            self.inner = self._replayed(before)
        self.place = -1 if RETRY_OF in trial.system_attrs else len(before) + 1  # a retry draws but what it lacks
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(self, *words: Any) -> dict[str, Any]:
        return self.inner.sample_relative(*words)

    def sample_independent(self, *words: Any) -> Any:
        return self.inner.sample_independent(*words)

    def _replayed(self, trials: list[FrozenTrial]) -> BaseSampler:
        """A sampler whose random numbers have come as far as those that drew these trials."""
        if self.settings.sampler == "cmaes":
            return sampler(self.settings, self.settings.seed + len(trials))
        resumed, past = (sampler(self.settings, self.settings.seed) for _ in range(2))
        replay = optuna.create_study(sampler=past, direction="maximize")
        for outcome in trials:  # draw again, then learn what came of it
            drawn = replay.ask()
            suggest(drawn, self.space)
            replay.tell(drawn, state=TrialState.FAIL)
            replay.add_trials([outcome] if outcome.state in FINISHED else [])
        resumed._rng, resumed._random_sampler = past._rng, past._random_sampler
        return resumed


def sampler(settings: TuningSettings, seed: int) -> Any:
    """TPE as in the paper, or CMA-ES (which draws the optimizer at random, for it knows numbers only)."""
    n = settings.startup_trials
    if settings.sampler == "cmaes":
        return CmaEsSampler(n_startup_trials=n, seed=seed, consider_pruned_trials=True, warn_independent_sampling=False)
    # The constant liar reckons with trials of other workers; where there are none it changes nothing.
    return TPESampler(
        multivariate=True, group=True, n_startup_trials=n, n_ei_candidates=24, constant_liar=True, seed=seed
    )
