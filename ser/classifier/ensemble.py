"""Several classifiers that answer as one: their probabilities are averaged, each calibrated by itself.

In: the fold models of a cross-validation and their temperatures. Out: a module that takes and gives what
`BiGRUClassifier` does. It costs as much memory and time as its members together; the encoder runs once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings, averaged


class Ensemble(nn.Module):
    """The average of `n_members` classifiers of one shape."""

    temperatures: torch.Tensor

    def __init__(self, dim: int, n_labels: int, settings: ClassifierSettings, n_members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(BiGRUClassifier(dim, n_labels, settings) for _ in range(n_members))
        self.register_buffer("temperatures", torch.ones(n_members))

    @classmethod
    def of(cls, members: Sequence[BiGRUClassifier], temperatures: Sequence[float]) -> Ensemble:
        """The average of trained classifiers, each with the temperature that was fitted for it."""
        first = members[0]
        ensemble = cls(first.dim, first.n_labels, first.settings, len(members))
        for copy, member in zip(ensemble.members, members, strict=True):
            copy.load_state_dict(member.state_dict())
        ensemble.temperatures.copy_(torch.tensor(temperatures))
        return ensemble.eval()

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`(batch, n_labels)`, whose softmax is the average of the members' probabilities; see `BiGRUClassifier`."""
        each = (member(frames, lengths) for member in self.members)
        return averaged([one / temperature for one, temperature in zip(each, self.temperatures, strict=True)])
