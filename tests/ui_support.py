"""What the tests of the page share: a tiny model with random weights, and recordings made on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from support import RATE_HZ, free_port, save_classifier, save_encoder, write_voice

from ser.scoring.calibration import Calibration

if TYPE_CHECKING:
    from ser.ui.context import Context
    from ser.ui.settings import AppSettings


def tiny_model(folder: Path, threshold: float = 0.0) -> Path:
    """A checkpoint with random weights on a tiny encoder beside it; below `threshold` it answers "unsure"."""
    calibration = Calibration(threshold=threshold, precision=0.8, coverage=0.5)
    wa = {"value": 0.61, "low": 0.55, "high": 0.67}
    encoder = save_encoder(folder / "encoder")
    return save_classifier(folder / "classifier", encoder, calibration, wa, voices=0.5)


def recording(path: Path, seconds: float = 2.0, rate_hz: int = RATE_HZ) -> Path:
    """A WAV file of somebody who speaks, PCM 16 bit."""
    return write_voice(path, seconds, rate_hz, subtype="PCM_16")


def started(settings: AppSettings) -> Context:
    """What the tabs share, once its model is there."""
    from ser.ui.context import Context

    context = Context.of(settings)
    context.model.start()
    context.model.get(120)
    return context


@contextmanager
def served(context: Context) -> Iterator[str]:
    """The address of a page on a free port."""
    from ser.ui.page import build_page, launch

    page = build_page(context.settings, context)
    launch(page, replace(context, settings=replace(context.settings, port=free_port())))
    yield str(page.local_url)
    page.close(verbose=False)
