"""Speech is found where somebody speaks, at any level, and nowhere in tones, noise and silence."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT

from ser.audio.load import SAMPLE_RATE_HZ, load_audio
from ser.audio.speech import speech_of, speech_probabilities, speech_spans
from ser.files import DEMO_CORPUS

CLIPS = sorted(DEMO_CORPUS.glob("*.ogg"))[::20]
TIME_S = np.arange(4 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
RNG = np.random.default_rng(0)
SPEECHLESS = {
    "silence": np.zeros(TIME_S.size),
    "white noise": 0.1 * RNG.standard_normal(TIME_S.size),
    "faint noise": 1e-3 * RNG.standard_normal(TIME_S.size),
    "a tone": 0.3 * np.sin(2 * np.pi * 440 * TIME_S),
    "a low tone": 0.3 * np.sin(2 * np.pi * 220 * TIME_S),
    "a chord": sum(0.1 * np.sin(2 * np.pi * hz * TIME_S) for hz in (262, 330, 392, 523)),
    "clicks": np.where(np.arange(TIME_S.size) % 8_000 < 20, 0.5, 0.0),
    "hum": 0.2 * np.sign(np.sin(2 * np.pi * 50 * TIME_S)),
}


@pytest.mark.parametrize("name", SPEECHLESS)
def test_no_speech_is_found_where_there_is_none(name):
    assert speech_of(SPEECHLESS[name].astype(np.float32)).spans == ()


@pytest.mark.parametrize("clip", CLIPS, ids=[clip.stem for clip in CLIPS])
@pytest.mark.parametrize("level", [1.0, 0.003])
def test_speech_is_found_in_real_voices_loud_and_faint(clip, level):
    samples = load_audio(clip) * np.float32(level)
    spans = speech_spans(samples)
    assert all(start < end for start, end in spans)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    assert sum(end - start for start, end in spans) > 0.2 * samples.size / SAMPLE_RATE_HZ
    assert spans[-1][1] <= samples.size / SAMPLE_RATE_HZ


@pytest.mark.parametrize("seconds", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_silence_in_front_and_behind_is_cut_to_the_margin(seconds, noise):
    for clip in CLIPS[:4]:
        speech = speech_of(load_audio(clip)).samples
        silence = noise * np.abs(speech).max() * RNG.standard_normal((2, round(seconds * SAMPLE_RATE_HZ)))
        trimmed = speech_of(np.concatenate([silence[0], speech, silence[1]]).astype(np.float32)).samples
        assert trimmed.size == pytest.approx(speech.size, abs=0.2 * SAMPLE_RATE_HZ)


def test_a_pause_parts_two_spans_and_a_long_recording_is_heard_in_blocks():
    voice = speech_of(load_audio(CLIPS[0])).samples
    pause = np.zeros(20 * SAMPLE_RATE_HZ, np.float32)
    spans = speech_spans(np.concatenate([pause, voice, pause, voice]))
    second_s = 40 + voice.size / SAMPLE_RATE_HZ
    assert [round(start) for start, _ in (spans[0], spans[-1])] == [20, round(second_s)]
    assert speech_probabilities(np.zeros(0, np.float32)).shape == (0,)


def test_no_torch_is_imported_for_it():
    program = "import sys, numpy; from ser.audio.speech import speech_spans; "
    program += "speech_spans(numpy.ones(16000, numpy.float32)); print('torch' in sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_onnx_runtime_keeps_no_id_of_the_machine_and_reports_nothing(tmp_path):
    """It would, from 1.32 on: in the home folder, and to mobile.events.data.microsoft.com."""
    program = "import ser, numpy; from ser.audio.speech import speech_spans; "
    program += "speech_spans(numpy.ones(16000, numpy.float32))"
    home = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", program], env=environment | home, cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()) == []
