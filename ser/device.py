"""Where encoders and trainings compute: on the processor, or where the environment variable SER_DEVICE says.

A GPU (`SER_DEVICE=cuda`) gives the same within rounding, not to the last bit.
"""

from __future__ import annotations

import os

import torch

from ser.errors import SettingsError

ENVIRONMENT = "SER_DEVICE"


def chosen_device() -> torch.device:
    """The device of SER_DEVICE, the processor where it is not set.

    Raises:
        SettingsError: torch knows no such device, or this machine has none.
    """
    asked = os.environ.get(ENVIRONMENT) or "cpu"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"{ENVIRONMENT} is {asked!r}, and torch cannot compute there ({reason}). Unset it to use the processor, or "
            "install a torch that is built for that device."
        ) from error
    return device
