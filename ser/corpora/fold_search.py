"""Which speakers go to which part: a greedy start and a local search over moves and swaps of whole speakers.

In: counts, `(speakers, emotions)` utterances of each speaker by emotion, and the shares wanted. Out: who tests
and who validates each fold, as masks `(folds, speakers)`. Knows nothing of files; `ser.corpora.folds` is the
public side.

The start is the rule of scikit-learn's `StratifiedGroupKFold`: speakers with the most uneven counts first,
each to the fold that keeps the class shares closest together. The search then takes the best of all moves
and swaps until none helps, from a few starts. Small corpora where that finds no split with every emotion in
every part get an integer program, which finds one or proves that there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]
Assignment = NDArray[np.int64]
Mask = NDArray[np.bool_]

MISSING_COST = 1e9  # of an emotion that a part lacks: outweighs every deviation
UNLEARNT_COST = 1e12  # of an emotion that training lacks: validation may lack it sooner
THIN_COST = 1e6  # of an emotion that only one speaker outside the test part has
REUSE_COST = 1e5  # of each fold more that a speaker validates than is fair
# Deviations count by their ratio to these, in percentage points.
SHARE_LIMIT_PP = {"test": 1.0, "validation": 1.5}
SIZE_LIMIT_PP = 1.0
POWER = 4  # the largest deviation dominates the sum
MAX_STEPS = 500
MAX_PAIRS = 20_000  # swaps looked at in one step; more are sampled
GOOD_ENOUGH = 1e-3  # cost of a part at which a sampled search ends: off by less than a fifth of each limit
N_STARTS = 8
MAX_ROUNDS = 4  # over the folds, until their validation parts stay as they are
SOLVER_TIME_S = 20.0


@dataclass(frozen=True)
class Plan:
    """A split of the speakers: who tests and who validates each fold, `(folds, speakers)` each."""

    test: Mask
    validation: Mask


def part_cost(part: Counts, total: Counts, share: float, limit_pp: float) -> NDArray[np.float64]:
    """How far parts are from the shares wanted: `(...,)` for counts `(..., emotions)`."""
    size = part.sum(axis=-1)
    shares_pp = 100 * (part / np.maximum(size, 1)[..., None] - total / total.sum())
    size_pp = 100 * (size / total.sum() - share)
    cost = ((shares_pp / limit_pp) ** POWER).sum(axis=-1) + (size_pp / SIZE_LIMIT_PP) ** POWER
    return cost + MISSING_COST * (part == 0).sum(axis=-1)


def make_plan(counts: Counts, n_folds: int, share: float, rng: np.random.Generator) -> Plan | None:
    """The best split found, every emotion in every part; None where the solver proves that none exists.

    Raises:
        TimeoutError: none was found in time, though one may exist.
    """
    fair = math.ceil(share * n_folds)
    test = split_test(counts, n_folds, rng)
    plan = Plan(test, split_validation(counts, test, share, fair, rng))
    if all((part @ counts > 0).all() for part in (plan.test, plan.validation, ~plan.test & ~plan.validation)):
        return plan
    solved = solve(counts, n_folds, share)
    return solved and Plan(solved.test, split_validation(counts, solved.test, share, fair, rng, solved.validation))


def split_test(counts: Counts, n_folds: int, rng: np.random.Generator) -> Mask:
    """Who tests each fold, `(folds, speakers)`; everybody once."""
    starts = (_greedy(counts, n_folds, rng, first=not i) for i in range(N_STARTS))
    found = [_improve_test(counts, start, n_folds, rng) for start in starts]
    return min(found, key=lambda pair: pair[0])[1] == np.arange(n_folds)[:, None]


def split_validation(
    counts: Counts, tests: Mask, share: float, fair: int, rng: np.random.Generator, starts: Mask | None = None
) -> Mask:
    """Who validates each fold, `(folds, speakers)`, of those that it does not test.

    No speaker validates more than `fair` folds where the corpus allows it: early stopping, temperatures and
    the objective of a search must not rest on one person. `starts` is a choice to begin from.
    """
    chosen = np.zeros_like(tests) if starts is None else starts.copy()
    for _ in range(MAX_ROUNDS):
        before = chosen.copy()
        for fold, tested in enumerate(tests):
            free = np.flatnonzero(~tested)
            excess = np.maximum(0, chosen.sum(axis=0) - chosen[fold] + 1 - fair)
            search = _ValidationSearch(counts[free], counts.sum(axis=0), share, excess[free])
            candidates = [chosen[fold, free], *(search.random_start(rng) for _ in range(N_STARTS))]
            chosen[fold, free] = min((search.improve(one, rng) for one in candidates), key=search.cost_of)
        if (chosen == before).all():
            break
    return chosen


def _greedy(counts: Counts, n_folds: int, rng: np.random.Generator, first: bool) -> Assignment:
    """The start: uneven speakers first, each to the fold that keeps the spread over folds smallest."""
    noise = np.ones(len(counts)) if first else rng.uniform(0.5, 2.0, len(counts))
    scaled = counts / counts.sum(axis=0)
    folds = np.zeros((n_folds, counts.shape[1]))
    test = np.zeros(len(counts), dtype=np.int64)
    for speaker in np.argsort(-counts.std(axis=1) * noise, kind="stable"):
        grown = folds[None] + np.eye(n_folds)[:, :, None] * scaled[speaker]
        test[speaker] = np.lexsort((folds.sum(axis=1), grown.std(axis=1).mean(axis=1).round(12)))[0]
        folds[test[speaker]] += scaled[speaker]
    return test


def _improve_test(counts: Counts, test: Assignment, n_folds: int, rng: np.random.Generator) -> tuple[float, Assignment]:
    """Best moves and swaps between test folds until none helps: `(cost, (speakers,))`."""
    total, present = counts.sum(axis=0), counts > 0
    n_present, n_emotions = present.sum(axis=0), counts.shape[1]
    both = np.hstack([counts, present])  # utterances and speakers of each emotion

    def cost_of(sums: Counts) -> NDArray[np.float64]:
        part, speakers = sums[..., :n_emotions], sums[..., n_emotions:]
        thin = np.maximum(0, 2 - (n_present - speakers)).sum(axis=-1)
        return part_cost(part, total, 1 / n_folds, SHARE_LIMIT_PP["test"]) + THIN_COST * thin

    enough = n_folds * GOOD_ENOUGH if _is_sampled(len(test)) else 0.0
    folds = np.stack([both[test == fold].sum(axis=0) for fold in range(n_folds)])
    for _ in range(MAX_STEPS):
        costs = cost_of(folds)
        if costs.sum() < enough:
            break
        one, other, target = _changes(test, n_folds, rng)
        change = both[one] - np.where(other[:, None] >= 0, both[other], 0)
        source = test[one]
        gain = costs[source] + costs[target]
        gain = gain - cost_of(folds[source] - change) - cost_of(folds[target] + change)
        best = int(gain.argmax())
        if gain[best] <= 1e-9:
            break
        folds[source[best]] -= change[best]
        folds[target[best]] += change[best]
        test[one[best]] = target[best]
        if other[best] >= 0:
            test[other[best]] = source[best]
    return float(cost_of(folds).sum()), test


def _is_sampled(n_speakers: int) -> bool:
    """Whether there are more pairs of speakers than are looked at in one step."""
    return n_speakers * (n_speakers - 1) // 2 > MAX_PAIRS


def _changes(test: Assignment, n_folds: int, rng: np.random.Generator) -> tuple[Assignment, Assignment, Assignment]:
    """All moves and swaps as `(speaker, the one it changes places with or -1, fold it goes to)`."""
    n = len(test)
    one, target = (axis.ravel() for axis in np.meshgrid(np.arange(n), np.arange(n_folds), indexing="ij"))
    moves = one[test[one] != target], target[test[one] != target]
    first, second = rng.integers(0, n, (2, MAX_PAIRS)) if _is_sampled(n) else np.triu_indices(n, 1)
    apart = test[first] != test[second]
    first, second = first[apart], second[apart]
    nobody = np.full(len(moves[0]), -1)
    return np.r_[moves[0], first], np.r_[nobody, second], np.r_[moves[1], test[second]]


@dataclass(frozen=True)
class _ValidationSearch:
    """The choice of validation speakers among those outside a fold's test part.

    Attributes:
        counts: `(speakers, emotions)` of the speakers to choose from.
        total: `(emotions,)` utterances of the whole corpus.
        share: of all utterances, wanted for validation.
        excess: `(speakers,)` folds beyond the fair number that a speaker would validate.
    """

    counts: Counts
    total: Counts
    share: float
    excess: Assignment

    def random_start(self, rng: np.random.Generator) -> Mask:
        """Random speakers until the part has about its size, `(speakers,)`."""
        order = rng.permutation(len(self.counts))
        if _is_sampled(len(order)):  # too many to exchange one by one
            order = order[np.argsort(self.excess[order], kind="stable")]
        chosen = np.zeros(len(order), dtype=bool)
        reached = np.cumsum(self.counts[order].sum(axis=1)) <= self.share * self.total.sum()
        chosen[order[reached]] = True
        return chosen

    def cost_of(self, chosen: Mask) -> Any:
        return self._cost(self.counts[chosen].sum(axis=0), self.excess[chosen].sum())

    def _cost(self, part: Counts, excess: Any) -> NDArray[np.float64]:
        """`(...,)` for counts `(..., emotions)` of the part and the sum over its speakers' excess."""
        lost = (self.counts.sum(axis=0) - part == 0).sum(axis=-1)  # emotions that training would lack
        deviation = part_cost(part, self.total, self.share, SHARE_LIMIT_PP["validation"])
        return deviation + REUSE_COST * excess + UNLEARNT_COST * lost

    def improve(self, chosen: Mask, rng: np.random.Generator) -> Mask:
        """Best moves and swaps between training and validation until none helps, `(speakers,)`."""
        counts, excess = np.vstack([self.counts, 0 * self.total]), np.r_[self.excess, 0]  # row -1: nobody
        for _ in range(MAX_STEPS):
            inside, outside = np.r_[-1, np.flatnonzero(chosen)], np.r_[-1, np.flatnonzero(~chosen)]
            n = len(inside) * len(outside)  # pairs, of which there may be more than fit into memory
            pairs = rng.integers(0, n, MAX_PAIRS) if n > MAX_PAIRS else np.arange(n)
            given, taken = inside[pairs // len(outside)], outside[pairs % len(outside)]
            part, used = self.counts[chosen].sum(axis=0), self.excess[chosen].sum()
            now = self._cost(part, used)
            if n > MAX_PAIRS and now < GOOD_ENOUGH:
                break
            costs = self._cost(part - counts[given] + counts[taken], used - excess[given] + excess[taken])
            best = int(costs.argmin())
            if costs[best] >= now - 1e-9:
                break
            changed = np.array([given[best], taken[best]])
            chosen = chosen.copy()
            chosen[changed[changed >= 0]] ^= True
        return chosen


def solve(counts: Counts, n_folds: int, share: float, time_limit_s: float = SOLVER_TIME_S) -> Plan | None:
    """A split with every emotion in every part, sizes as close as can be; None where there is none.

    Integer program: x[f, s] tests speaker s in fold f, v[f, s] validates, d[p, f] bounds how far a part's
    size is off.

    Raises:
        TimeoutError: the solver did not come to an end.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import bmat, csr_array, eye_array, kron

    n_speakers, n_emotions = counts.shape
    n, k, most = n_folds * n_speakers, n_folds * n_emotions, np.inf
    per_fold, slack, each = eye_array(n_folds), eye_array(n_folds), eye_array(n)
    present = kron(per_fold, csr_array((counts > 0).T.astype(float)))  # speakers of each emotion in each fold
    size = kron(per_fold, csr_array(counts.sum(axis=1)[None] / counts.sum()))
    once = kron(csr_array(np.ones((1, n_folds))), eye_array(n_speakers))
    n_outside = np.tile((counts > 0).sum(axis=0), n_folds) - 1.0
    # Rows of the program with their bounds: (x, v, d of test, d of validation), low, high.
    rows: list[tuple[list[Any], Any, Any]] = [
        ([once, None, None, None], np.ones(n_speakers), np.ones(n_speakers)),  # each speaker tested once
        ([each, each, None, None], np.zeros(n), np.ones(n)),  # and not in two parts
        ([present, None, None, None], np.ones(k), np.full(k, most)),  # emotions in test,
        ([None, present, None, None], np.ones(k), np.full(k, most)),  # in validation,
        ([present, present, None, None], np.zeros(k), n_outside),  # and left over for training
        ([size, None, -slack, None], np.full(n_folds, -most), np.full(n_folds, 1 / n_folds)),
        ([size, None, slack, None], np.full(n_folds, 1 / n_folds), np.full(n_folds, most)),
        ([None, size, None, -slack], np.full(n_folds, -most), np.full(n_folds, share)),
        ([None, size, None, slack], np.full(n_folds, share), np.full(n_folds, most)),
    ]
    matrices, low, high = zip(*rows, strict=True)
    result = milp(
        np.r_[np.zeros(2 * n), np.ones(2 * n_folds)],
        integrality=np.r_[np.ones(2 * n), np.zeros(2 * n_folds)],
        bounds=Bounds(0, np.r_[np.ones(2 * n), np.full(2 * n_folds, most)]),
        constraints=LinearConstraint(bmat(matrices).tocsc(), np.concatenate(low), np.concatenate(high)),
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.05},
    )
    if result.x is None:
        if result.status == 2:
            return None
        raise TimeoutError(result.message)
    return Plan(*result.x[: 2 * n].round().astype(bool).reshape(2, n_folds, n_speakers))
