"""Hand-crafted functionals of an utterance by openSMILE: what was used before self-supervised encoders.

In: utterances at 16 kHz. Out: one vector each, 88 numbers of eGeMAPS or 6,373 of ComParE. openSMILE is free for
research alone and therefore optional: `pip install opensmile`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ser.audio.load import SAMPLE_RATE_HZ, Samples
from ser.errors import SettingsError

SETS = {"egemaps": "eGeMAPSv02", "compare": "ComParE_2016"}


def functionals(
    utterances: Iterable[Samples], name: str = "egemaps", report: Callable[[int], None] = lambda done: None
) -> NDArray[np.float32]:
    """Functionals of utterances.

    Args:
        utterances: each `(samples,)` float32 at 16 kHz.
        name: "egemaps" (Eyben et al. 2016) or "compare" (Schuller et al. 2016).
        report: called with the number of utterances done.

    Returns:
        `(utterances, features)` float32; what openSMILE leaves undefined is 0.

    Raises:
        SettingsError: openSMILE is not installed, or the set is unknown.
    """
    if name not in SETS:
        raise SettingsError(f"There is no feature set {name!r}. Choose one of {', '.join(SETS)}.")
    extractor = _extractor(SETS[name])
    rows = []
    for samples in utterances:
        rows.append(extractor.process_signal(samples, SAMPLE_RATE_HZ).to_numpy(np.float32)[0])
        report(len(rows))
    return cast(NDArray[np.float32], np.nan_to_num(np.stack(rows), nan=0.0, posinf=0.0, neginf=0.0))


def _extractor(feature_set: str) -> Any:
    try:
        import opensmile
    except ImportError as error:
        raise SettingsError(
            "openSMILE is not installed. It is free for research alone: pip install opensmile"
        ) from error
    return opensmile.Smile(
        feature_set=getattr(opensmile.FeatureSet, feature_set), feature_level=opensmile.FeatureLevel.Functionals
    )
