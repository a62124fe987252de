"""The models of a comparison by name: what each needs, and how it is fitted on a fold.

In: names. Out: what fits them, which of them can run here, and why others cannot.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ser.errors import SettingsError
from ser.experiments.baselines import Task, linear_svm, logistic_regression
from ser.experiments.networks import AttendedLayers, CombinedLayers, ConformerHead, MfccCNN, network


@dataclass(frozen=True)
class Model:
    """One way from a recording to an emotion.

    Attributes:
        title: in tables and charts.
        needs: "frames", "layers" or "front" end of an encoder, "mfcc", or openSMILE's "egemaps" or "compare".
        fit: fits the model on a fold, calling its second argument after each epoch, and returns the probabilities
            `(test utterances, n_labels)`; None for the Bi-GRU, which `Crossval` trains.
    """

    title: str
    needs: str
    fit: Callable[[Task, Callable[[int], None]], NDArray[np.float64]] | None = None

    def fitted(self, task: Task, listener: Callable[[int], None] = lambda epoch: None) -> NDArray[np.float64]:
        """Probabilities `(test utterances, n_labels)` of the model fitted on a fold."""
        assert self.fit is not None  # `Crossval` trains the Bi-GRU
        return self.fit(task, listener)

    @property
    def uses_encoder(self) -> bool:
        return self.needs in ("frames", "layers", "front")

    @property
    def is_network(self) -> bool:
        """Whether `BaselineSettings` say how it is trained; the linear models choose their strength themselves."""
        return isinstance(self.fit, partial)


MODELS: dict[str, Model] = {
    "paper": Model("Bi-GRU, the paper's settings", "frames"),
    "bigru": Model("Bi-GRU, settings as given", "frames"),
    "mean_lr": Model("frames averaged, logistic regression", "frames", logistic_regression),
    "conformer": Model("Conformer", "frames", partial(network, ConformerHead)),
    "front_conformer": Model("front end, Conformer", "front", partial(network, ConformerHead)),
    "drm": Model("reduced layers, attention over layers", "layers", partial(network, AttendedLayers)),
    "drm_classifiers": Model("reduced layers, a classifier each, combined", "layers", partial(network, CombinedLayers)),
    "mfcc_cnn": Model("MFCC, 1D-CNN of our own", "mfcc", partial(network, MfccCNN)),
    "egemaps_svm": Model("eGeMAPS, linear SVM", "egemaps", linear_svm),
    "compare_svm": Model("ComParE, linear SVM", "compare", linear_svm),
}


def runnable(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of these models can run here, and why others cannot, in sentences.

    Raises:
        SettingsError: there is no such model.
    """
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise SettingsError(f"There is no model {', '.join(unknown)}; there are {', '.join(MODELS)}.")
    has_opensmile = importlib.util.find_spec("opensmile") is not None
    without = [name for name in names if MODELS[name].needs in ("egemaps", "compare") and not has_opensmile]
    return [name for name in names if name not in without], [
        f"{name} is left out: openSMILE is not installed. It is free for research alone: pip install opensmile"
        for name in without
    ]


def fit_alone(name: str, task: Task) -> NDArray[np.float64]:
    """Probabilities of a model as a worker fits it: on one thread."""
    torch.set_num_threads(1)
    return MODELS[name].fitted(task)
