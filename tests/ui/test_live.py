"""Live: pieces of a microphone become the last seconds of it, and those an answer while somebody still speaks."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import voice
from ui_support import tiny_model

from ser.audio.resample import resample
from ser.ui.answering import Answering
from ser.ui.context import Context
from ser.ui.live import KEPT_S, Heard, Listening, heard_with
from ser.ui.settings import AppSettings
from ser.ui.texts import TEXTS

VISITOR: Any = SimpleNamespace(client=SimpleNamespace(host="192.0.2.1"), headers={})


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    context = Context.of(AppSettings(checkpoint=tiny_model(tmp_path_factory.mktemp("model")), port=0))
    context.model.start()
    context.model.get(60)
    return context


@pytest.fixture
def listening(context: Context) -> Listening:
    return Listening(context, Answering(context))


def sent(samples: NDArray[np.float32], rate_hz: int = 48_000, first: int = 0) -> str:
    """A piece as page.js sends it."""
    whole = (32767 * samples).astype("<i2").tobytes()
    return f"{rate_hz},{first},{base64.b64encode(whole).decode()}"


def heard_all(samples: NDArray[np.float32], rate_hz: int, piece_s: float = 0.5) -> Heard:
    heard, step = None, round(piece_s * rate_hz)
    for first in range(0, samples.size, step):
        heard = heard_with(heard, sent(samples[first : first + step], rate_hz, first))
    assert heard is not None
    return heard


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
def test_pieces_are_resampled_as_the_whole_is(rate_hz: int) -> None:
    samples = voice(4, rate_hz)
    heard = heard_all(samples, rate_hz)
    whole = resample(samples, rate_hz, 16_000)
    assert 0 <= whole.size - heard.samples.size < 0.02 * 16_000  # what the filter still waits for
    np.testing.assert_allclose(heard.samples, whole[: heard.samples.size], atol=1e-3)


def test_only_the_last_seconds_are_kept_however_long_somebody_speaks() -> None:
    samples = voice(20)
    heard = heard_all(samples, 16_000)
    held = heard.samples if heard.samples.base is None else heard.samples.base
    assert held.nbytes < 2 * heard.samples.nbytes
    assert heard.begin_s == 20 - KEPT_S
    np.testing.assert_allclose(heard.samples, samples[-round(KEPT_S * 16_000) :], atol=1e-4)


@pytest.mark.parametrize(("rate_hz", "first"), [(48_000, 96_000), (48_000, 0), (44_100, 24_000)])
def test_a_piece_that_does_not_follow_begins_anew_in_its_place(rate_hz: int, first: int) -> None:
    one = heard_with(None, sent(voice(0.5, 48_000)))
    other = heard_with(one, sent(voice(0.5, rate_hz), rate_hz, first))
    assert other is not one
    assert other.begin_s == pytest.approx(first / rate_hz, abs=0.02)
    assert other.samples.size <= 8000


NO_PIECES = """
48000,0
48000,0,
48000,0,AAA
48000,0,!!!!
48000,0,AA==
48000,0,AAAAAAAA,
x,0,AAAAAAAA
48000,-1,AAAAAAAA
1,0,AAAAAAAA
9999999,0,AAAAAAAA
""".splitlines()


@pytest.mark.parametrize("text", [*NO_PIECES, sent(np.zeros(49_000, np.float32), 8000)])
def test_what_is_no_piece_of_a_recording_is_refused_and_changes_nothing(listening: Listening, text: str) -> None:
    with pytest.raises(ValueError):
        heard_with(None, text)
    before = heard_with(None, sent(voice(1, 48_000)))
    heard, said, _ = listening.hear(VISITOR, text, "en", before, None, True)
    assert heard is before
    assert heard.end == 48_000
    assert 'role="alert"' in said


@pytest.mark.parametrize("sound", [np.zeros(48_000), 0.2 * np.sin(np.arange(48_000))], ids=["silence", "a tone"])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_nobody_who_speaks_is_no_error(listening: Listening, sound: Any, language: str) -> None:
    heard, said, chart = listening.hear(VISITOR, sent(sound), language, None, None, True)
    assert getattr(TEXTS["live_listening"], language) in said
    assert "alert" not in said
    assert "figure" not in str(chart)
    assert heard.end == 48_000


def test_an_answer_is_that_of_the_last_seconds_and_its_timeline_says_which(listening: Listening) -> None:
    heard = heard_all(voice(9, 48_000), 48_000)
    answer = listening.answered(heard, None, "en")
    assert answer is not None
    alone = listening.context.model.get()((16_000, heard.samples))
    assert answer.prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert answer.prediction.duration_s == KEPT_S
    _, said, plot = listening.hear(VISITOR, sent(voice(0.5, 48_000), first=432_000), "fa", heard, None, True)
    assert "data-answered" in said
    assert "۶٫۰" in said
    axis = plot.value["plot"] if isinstance(plot.value, dict) else plot.value.plot
    assert '"range":[3.5' in axis.replace(" ", "")


def test_a_pause_has_no_part_in_the_timeline(listening: Listening) -> None:
    answer = listening.answered(heard_all(np.concatenate([voice(2), np.zeros(32_000, np.float32)]), 16_000), None, "en")
    assert answer is not None
    assert answer.prediction.duration_s == 4
    assert answer.prediction.timeline is not None
    assert answer.prediction.timeline.end_s.max() <= 2.1


def test_the_visitor_s_voice_is_used_where_it_is_on(listening: Listening, tmp_path: Path) -> None:
    known = listening.context.model.get().adapt(neutral=[(16_000, voice(3, seed=1))])
    piece = sent(voice(2, 48_000))
    used, unused = (listening.hear(VISITOR, piece, "en", None, known, on)[1] for on in (True, False))
    assert TEXTS["voice_used"].en in used
    assert TEXTS["voice_used"].en not in unused


def test_a_client_that_sends_too_much_waits_and_nothing_that_was_said_is_lost(context: Context) -> None:
    limited = replace(context, settings=replace(context.settings, requests_per_minute=1))
    listening, heard, said = Listening(limited, Answering(limited)), None, ""
    for number in range(6):
        heard, said, _ = listening.hear(
            VISITOR, sent(voice(0.5, 48_000), first=24_000 * number), "en", heard, None, True
        )
        assert ("goes on by itself" in said) == (number == 5)
    assert heard.end == 6 * 24_000
    other: Any = SimpleNamespace(client=SimpleNamespace(host="192.0.2.2"), headers={})
    assert "goes on by itself" not in listening.hear(other, sent(voice(1, 48_000)), "en", None, None, True)[1]


def test_without_a_model_the_reason_is_said(tmp_path: Path) -> None:
    context = Context.of(AppSettings(port=0))
    context.model.state = replace(context.model.state, problem="it is damaged")
    context.model._answered.set()
    _, said, _ = Listening(context, Answering(context)).hear(VISITOR, sent(voice(1, 48_000)), "en", None, None, True)
    assert "it is damaged" in said
