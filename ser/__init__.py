"""Speech emotion recognition for Persian: a frozen DistilHuBERT, a bidirectional GRU, Optuna.

    import ser
    predictor = ser.load()
    result = predictor("clip.wav")
    print(result.emotion, result.probabilities)

Implements Ahmadianshalchi, Houshmand, Hosseini 2026, DOI 10.32523/2306-6172-2026-14-1-4-16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ser.predictor import Predictor as Predictor
    from ser.predictor import load as load

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Predictor", "load"):  # torch is imported when it is needed, not before
        from ser import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'ser' has no attribute {name!r}")
