"""Speech emotion recognition for Persian: a frozen DistilHuBERT, a bidirectional GRU, Optuna.

    import ser
    predictor = ser.load()
    result = predictor("clip.wav")
    print(result.emotion, result.probabilities)

Implements Ahmadianshalchi, Houshmand, Hosseini 2026, DOI 10.32523/2306-6172-2026-14-1-4-16.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ser.inference.load import load as load
    from ser.inference.recogniser import Prediction as Prediction
    from ser.inference.recogniser import Recogniser as Recogniser

# ONNX Runtime otherwise keeps an id of the machine in the home folder and reports its use to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Prediction", "Recogniser", "__version__", "load"]
HOMES = {"load": "load", "Prediction": "recogniser", "Recogniser": "recogniser"}


def __getattr__(name: str) -> Any:
    """What is offered here, imported when it is first asked for: `import ser` alone is quick."""
    if name not in HOMES:
        raise AttributeError(f"module 'ser' has no attribute {name!r}")
    return getattr(import_module(f"ser.inference.{HOMES[name]}"), name)
