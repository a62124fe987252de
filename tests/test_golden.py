"""The shipped model, from a file to its probabilities, gives the numbers that it gave when it was made.

`tests/golden.json` holds them. After a deliberate change of model or features, write it anew and look at what
changed:

    python -m pytest tests/test_golden.py --update-golden
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ser
from ser.classifier.checkpoint import DESCRIPTION
from ser.files import DEMO_CORPUS, SHIPPED_CLASSIFIER, write_atomically
from ser.inference.recogniser import Recogniser

GOLDEN = Path(__file__).parent / "golden.json"
CLIPS = [DEMO_CORPUS / name for name in sorted(p.name for p in DEMO_CORPUS.glob("*.ogg"))[::20]]
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(
    not (SHIPPED_CLASSIFIER / DESCRIPTION).exists(),
    reason="no model ships yet: checkpoints/classifier/model.json is missing",
)


@pytest.fixture(scope="module")
def predictor() -> Recogniser:
    return ser.load()


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest, predictor: Recogniser) -> dict[str, dict[str, float]]:
    """Probabilities by clip; written anew with `--update-golden`."""
    if request.config.getoption("--update-golden"):
        answers = {clip.name: predictor(clip, timeline=False).probabilities for clip in CLIPS}
        write_atomically(GOLDEN, (json.dumps(answers, indent=2) + "\n").encode())
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_every_example_has_its_golden_answer(golden):
    assert sorted(golden) == [clip.name for clip in CLIPS]
    assert golden


@pytest.mark.parametrize("clip", CLIPS, ids=[clip.stem for clip in CLIPS])
def test_the_shipped_model_answers_as_it_did(predictor, golden, clip):
    assert predictor(clip).probabilities == pytest.approx(golden[clip.name], abs=TOLERANCE)
