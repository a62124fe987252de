"""Optimizers as Keras computes them.

In: a model and settings. Out: a torch optimizer of its parameters.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ser.training.settings import TrainingSettings

RMSPROP_RHO, KERAS_EPSILON = 0.9, 1e-7  # Keras' defaults; torch has 0.99 and 1e-8


def optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimizer that the settings name, with Keras' defaults for everything else."""
    parameters, rate = model.parameters(), settings.learning_rate
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, eps=KERAS_EPSILON)
    if settings.optimizer == "rmsprop":
        return RMSprop(parameters, rate)
    return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum)


class RMSprop(torch.optim.Optimizer):
    """RMSprop as Keras computes it, `w -= rate * g / sqrt(v + epsilon)`; torch adds epsilon after the root."""

    def __init__(self, parameters: Iterable[torch.Tensor], rate: float) -> None:
        super().__init__(parameters, {"rate": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in (one for one in group["params"] if one.grad is not None):
                state, gradient = self.state[parameter], parameter.grad
                mean = state.setdefault("square_avg", torch.zeros_like(parameter))
                mean.mul_(RMSPROP_RHO).addcmul_(gradient, gradient, value=1 - RMSPROP_RHO)
                parameter.addcdiv_(gradient, (mean + KERAS_EPSILON).sqrt_(), value=-group["rate"])
