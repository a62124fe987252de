"""Speed of five folds in lockstep beside `nn.GRU` over padded batches, fold after fold.

In: noise of ShEMO's lengths (mean 4.18 s, 18 % above 6 s and cut there) and the paper's classifier. Out: medians and
ratios on standard output, with the processor time that all threads took. They train in turns, so that whatever else
the machine does slows all of them. First both train one fold without dropout, and their losses must agree.

The gradient that reaches an utterance's far end is too small for normal floating point numbers, which processors
multiply slowly. Ours rounds it to zero; the third competitor is `nn.GRU` with that alone.

    python tests/benchmarks/bench_training.py [--rounds 3] [--utterances 320] [--epochs 2] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from ser.runtime import let_threads_sleep

let_threads_sleep()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from reference import train_folds  # noqa: E402

from ser.classifier.settings import ClassifierSettings  # noqa: E402
from ser.corpora.folds import Fold  # noqa: E402
from ser.training.frames import LabelledFrames  # noqa: E402
from ser.training.lockstep import Lockstep  # noqa: E402
from ser.training.settings import TrainingSettings  # noqa: E402
from ser.training.trainer import flushed_denormals  # noqa: E402

DIM, N_LABELS, N_FOLDS = 768, 6, 5
MEAN_S, SPREAD, FRAME_RATE_HZ = 4.18, 0.6, 50  # lognormal
SETTINGS = TrainingSettings(patience=0)
TOLERANCE = 1e-4  # of a loss


class Noise:
    """Frames `(frames, 768)` of utterances in memory."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(40)
        lengths = np.exp(rng.normal(np.log(MEAN_S) - SPREAD**2 / 2, SPREAD, n)) * FRAME_RATE_HZ
        self.frames = [
            rng.standard_normal((length, DIM), dtype=np.float32)
            for length in np.clip(lengths.astype(int), 10, SETTINGS.max_frames)
        ]

    def gather(self, indices, max_frames):
        chosen = [self.frames[index][:max_frames] for index in indices]
        return np.concatenate(chosen), np.array([len(one) for one in chosen])


def ten_parts(n: int) -> list[Fold]:
    """Five folds of seven, one and two tenths of the utterances."""
    parts = np.array_split(np.arange(n), 2 * N_FOLDS)
    rolled = [parts[2 * number :] + parts[: 2 * number] for number in range(N_FOLDS)]
    return [Fold(*(tuple(np.concatenate(part).tolist()) for part in (one[3:], one[2:3], one[:2]))) for one in rolled]


def lockstep(data, folds, classifier, settings) -> list[float]:
    """Last validation loss of each fold."""
    one = Lockstep(data, folds, classifier, settings)
    while not one.done:
        one.run_epoch()
    return [training.epochs[-1].validation_loss for training in one.trainings]


def flushed(*work) -> list[float]:
    with flushed_denormals():
        return train_folds(*work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="timings of each")
    parser.add_argument("--utterances", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = LabelledFrames(Noise(options.utterances), np.arange(options.utterances) % N_LABELS, N_LABELS, DIM)
    folds, classifier = ten_parts(options.utterances), ClassifierSettings()
    settings = replace(SETTINGS, max_epochs=options.epochs)
    check = data, folds[:1], replace(classifier, dropout=0.0), replace(settings, max_epochs=1)
    losses = [train(*check)[0] for train in (train_folds, lockstep)]
    if abs(losses[0] - losses[1]) > TOLERANCE * losses[0]:
        raise SystemExit(f"The losses after one epoch do not agree: {losses[0]} by nn.GRU, {losses[1]} by ours.")
    runs = {"nn.GRU padded": train_folds, "the same, tiny numbers rounded": flushed, "ours": lockstep}
    wall_s: dict[str, list[float]] = {name: [] for name in runs}
    busy_s: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, train in runs.items():
            begun = time.perf_counter(), time.process_time()
            train(data, folds, classifier, settings)
            wall_s[name].append(time.perf_counter() - begun[0])
            busy_s[name].append(time.process_time() - begun[1])
    print(
        f"{N_FOLDS} folds, {options.epochs} epochs, {options.utterances} utterances of {DIM} dimensions, "
        f"units {classifier.units}, {options.threads} threads; medians of {options.rounds} rounds in turns"
    )
    print(f"losses agree: {losses[0]:.6f} and {losses[1]:.6f} after an epoch of one fold without dropout")
    wall, busy = ({name: float(np.median(s)) for name, s in times.items()} for times in (wall_s, busy_s))
    for name in runs:
        print(
            f"{name:32s} {wall[name]:7.1f} s, {wall[name] / wall['ours']:5.2f} times ours;"
            f"  processor {busy[name]:7.1f} s, {busy[name] / busy['ours']:5.2f} times ours"
        )


if __name__ == "__main__":
    main()
