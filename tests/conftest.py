"""What the tests share: tiny models with random weights, and real recordings where there are any."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT, save_classifier, save_encoder

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network
_cache = tempfile.TemporaryDirectory(prefix="ser-cache-")
os.environ["SER_CACHE"] = _cache.name  # and none may read or write this user's cache
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core; threads beside it would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden.json anew")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a HuBERT of a few thousand random weights and a group norm, as DistilHuBERT has."""
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier of random weights on `tiny_encoder`."""
    from ser.scoring.calibration import Calibration

    calibration = Calibration(temperature=0.5, threshold=0.0, precision=0.8, coverage=1.0)
    wa = {"value": 0.5, "low": 0.4, "high": 0.6}
    return save_classifier(tmp_path_factory.mktemp("classifier"), tiny_encoder, calibration, wa, max_frames=100)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("emodb")`: a folder of real recordings, or skip."""
    folder = Path(os.environ.get("SER_TEST_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"{folder / name} is not there; set SER_TEST_DATA to the folder that holds {name}")
        return folder / name

    return find
