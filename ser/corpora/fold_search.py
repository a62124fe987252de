"""Which speakers go to which part: a greedy start and a local search over moves and swaps of whole speakers.

In: counts, `(speakers, emotions)` utterances of each speaker by emotion, and the shares wanted. Out: test
fold of each speaker and validation speakers of each fold. Knows nothing of files; `ser.corpora.folds` is the public
side.

The start is the rule of scikit-learn's `StratifiedGroupKFold`: speakers with the most uneven counts first,
each to the fold that keeps the class shares closest together. The search then takes the best of all moves
and swaps until none helps, from a few starts. Small corpora where that finds no split with every emotion in
every part get an integer program, which finds one or proves that there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]
Assignment = NDArray[np.int64]

MISSING_COST = 1e9  # of an emotion that a part lacks: outweighs every deviation
UNLEARNT_COST = 1e12  # of an emotion that training lacks: validation may lack it sooner
THIN_COST = 1e6  # of an emotion that only one speaker outside the test part has
# Deviations count by their ratio to these, in percentage points.
SHARE_LIMIT_PP = {"test": 1.0, "validation": 1.5}
SIZE_LIMIT_PP = 1.0
POWER = 4  # the largest deviation dominates the sum
MAX_STEPS = 500
MAX_PAIRS = 20_000  # swaps looked at in one step; more are sampled
N_STARTS = 8
SOLVER_TIME_S = 20.0


@dataclass(frozen=True)
class Plan:
    """A split of the speakers.

    Attributes:
        test: `(speakers,)` the fold that tests each speaker.
        validation: `(folds, speakers)` true where a speaker validates a fold.
    """

    test: Assignment
    validation: NDArray[np.bool_]


def part_cost(part: Counts, total: Counts, share: float, limit_pp: float) -> NDArray[np.float64]:
    """How far parts are from the shares wanted: `(...,)` for counts `(..., emotions)`."""
    size = part.sum(axis=-1)
    overall = total / total.sum()
    shares_pp = 100 * (part / np.maximum(size, 1)[..., None] - overall)
    size_pp = 100 * (size / total.sum() - share)
    cost = ((shares_pp / limit_pp) ** POWER).sum(axis=-1) + (size_pp / SIZE_LIMIT_PP) ** POWER
    return cost + MISSING_COST * (part == 0).sum(axis=-1)


def split_test(counts: Counts, n_folds: int, rng: np.random.Generator) -> Assignment:
    """The test fold of each speaker, `(speakers,)`."""
    found = [
        _improve_test(counts, _greedy(counts, n_folds, rng, first=not i), n_folds, rng)
        for i in range(N_STARTS)
    ]
    return min(found, key=lambda pair: pair[0])[1]


def split_validation(
    counts: Counts,
    test: NDArray[np.bool_],
    share: float,
    rng: np.random.Generator,
    start: NDArray[np.bool_] | None,
) -> tuple[float, NDArray[np.bool_]]:
    """Validation speakers among those that are not `test`: `(cost, (speakers,) mask)`."""
    outside = np.flatnonzero(~test)
    total = counts.sum(axis=0)
    starts = [_random_start(counts, outside, share, rng) for _ in range(N_STARTS)]
    if start is not None:
        starts.append(start[outside])
    found = [_improve_validation(counts[outside], total, chosen, share, rng) for chosen in starts]
    cost, chosen = min(found, key=lambda pair: pair[0])
    mask = np.zeros(len(counts), dtype=bool)
    mask[outside[chosen]] = True
    return cost, mask


def make_plan(counts: Counts, n_folds: int, share: float, rng: np.random.Generator) -> Plan | None:
    """The best split found, every emotion in every part; None where the solver proves that none exists.

    Raises:
        TimeoutError: none was found in time, though one may exist.
    """
    plan, cost = _plan_for(counts, split_test(counts, n_folds, rng), n_folds, share, rng)
    if cost < MISSING_COST:
        return plan
    solved = solve(counts, n_folds, share)
    return solved and _plan_for(counts, solved.test, n_folds, share, rng, solved.validation)[0]


def _plan_for(
    counts: Counts, test: Assignment, n_folds: int, share: float, rng: np.random.Generator,
    starts: NDArray[np.bool_] | None = None,
) -> tuple[Plan, float]:  # fmt: skip
    found = [
        split_validation(counts, test == fold, share, rng, None if starts is None else starts[fold])
        for fold in range(n_folds)
    ]
    tested = np.stack([counts[test == fold].sum(axis=0) for fold in range(n_folds)])
    missing = MISSING_COST * float((tested == 0).sum())
    return Plan(test, np.stack([mask for _, mask in found])), missing + max(cost for cost, _ in found)


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


def _improve_test(
    counts: Counts, test: Assignment, n_folds: int, rng: np.random.Generator
) -> tuple[float, Assignment]:
    """Best moves and swaps between test folds until none helps: `(cost, (speakers,))`."""
    total, present = counts.sum(axis=0), counts > 0
    n_present, n_emotions = present.sum(axis=0), counts.shape[1]
    both = np.hstack([counts, present])  # utterances and speakers of each emotion

    def cost_of(sums: Counts) -> NDArray[np.float64]:
        part, speakers = sums[..., :n_emotions], sums[..., n_emotions:]
        thin = np.maximum(0, 2 - (n_present - speakers)).sum(axis=-1)
        return part_cost(part, total, 1 / n_folds, SHARE_LIMIT_PP["test"]) + THIN_COST * thin

    folds = np.stack([both[test == fold].sum(axis=0) for fold in range(n_folds)])
    for _ in range(MAX_STEPS):
        costs = cost_of(folds)
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


def _changes(
    test: Assignment, n_folds: int, rng: np.random.Generator
) -> tuple[Assignment, Assignment, Assignment]:
    """All moves and swaps as `(speaker, the one it changes places with or -1, fold it goes to)`."""
    n = len(test)
    one, target = (axis.ravel() for axis in np.meshgrid(np.arange(n), np.arange(n_folds), indexing="ij"))
    moves = one[test[one] != target], target[test[one] != target]
    if n * (n - 1) // 2 <= MAX_PAIRS:
        first, second = np.triu_indices(n, 1)
    else:
        first, second = rng.integers(0, n, (2, MAX_PAIRS))
    apart = test[first] != test[second]
    first, second = first[apart], second[apart]
    return (
        np.concatenate([moves[0], first]),
        np.concatenate([np.full(len(moves[0]), -1), second]),
        np.concatenate([moves[1], test[second]]),
    )


def _random_start(
    counts: Counts, outside: Assignment, share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Random speakers until the validation part has about its size: a mask over `outside`."""
    order = rng.permutation(len(outside))
    reached = np.cumsum(counts[outside[order]].sum(axis=1)) <= share * counts.sum()
    chosen = np.zeros(len(outside), dtype=bool)
    chosen[order[reached]] = True
    return chosen


def _improve_validation(
    counts: Counts, total: Counts, chosen: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> tuple[float, NDArray[np.bool_]]:
    """Best moves and swaps between training and validation until none helps."""
    everything = counts.sum(axis=0)

    def cost_of(part: Counts) -> NDArray[np.float64]:
        lost = ((everything - part) == 0).sum(axis=-1)  # emotions that training would lack
        return part_cost(part, total, share, SHARE_LIMIT_PP["validation"]) + UNLEARNT_COST * lost

    for _ in range(MAX_STEPS):
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        part = counts[chosen].sum(axis=0)
        given, taken = (
            axis.ravel() for axis in np.meshgrid(np.r_[-1, inside], np.r_[-1, outside], indexing="ij")
        )
        if len(given) > MAX_PAIRS:
            sample = rng.integers(0, len(given), MAX_PAIRS)
            given, taken = given[sample], taken[sample]
        padded = np.vstack([counts, np.zeros(counts.shape[1])])  # row -1: nobody
        costs = cost_of(part - padded[given] + padded[taken])
        best = int(costs.argmin())
        if costs[best] >= cost_of(part) - 1e-9:
            break
        chosen = chosen.copy()
        for speaker in (given[best], taken[best]):
            if speaker >= 0:
                chosen[speaker] = not chosen[speaker]
    return float(cost_of(counts[chosen].sum(axis=0))), chosen


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
    n, ones = n_folds * n_speakers, np.ones((1, n_folds))
    sizes = csr_array(counts.sum(axis=1)[None] / counts.sum())
    per_fold = eye_array(n_folds)
    present = kron(per_fold, csr_array((counts > 0).T.astype(float)))  # speakers of each emotion in each fold
    size, slack = kron(per_fold, sizes), eye_array(n_folds)
    n_outside = np.tile((counts > 0).sum(axis=0), n_folds) - 1.0
    rows = bmat(
        [
            [kron(csr_array(ones), eye_array(n_speakers)), None, None, None],  # each speaker tested once
            [eye_array(n), eye_array(n), None, None],  # and not in two parts
            [present, None, None, None],  # emotions in test,
            [None, present, None, None],  # in validation,
            [present, present, None, None],  # and left over for training
            [size, None, -slack, None],
            [size, None, slack, None],
            [None, size, None, -slack],
            [None, size, None, slack],
        ]
    )
    k, most = n_folds * n_emotions, np.inf
    low = [np.ones(n_speakers), np.zeros(n), np.ones(k), np.ones(k), np.zeros(k)]
    high = [np.ones(n_speakers), np.ones(n), np.full(k, most), np.full(k, most), n_outside]
    for wanted in (1 / n_folds, share):
        low += [np.full(n_folds, -most), np.full(n_folds, wanted)]
        high += [np.full(n_folds, wanted), np.full(n_folds, most)]
    result = milp(
        np.r_[np.zeros(2 * n), np.ones(2 * n_folds)],
        integrality=np.r_[np.ones(2 * n), np.zeros(2 * n_folds)],
        bounds=Bounds(0, np.r_[np.ones(2 * n), np.full(2 * n_folds, most)]),
        constraints=LinearConstraint(rows.tocsc(), np.concatenate(low), np.concatenate(high)),
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.05},
    )
    if result.x is None:
        if result.status == 2:
            return None
        raise TimeoutError(result.message)
    chosen = result.x[: 2 * n].round().astype(bool).reshape(2, n_folds, n_speakers)
    return Plan(chosen[0].argmax(axis=0), chosen[1])
