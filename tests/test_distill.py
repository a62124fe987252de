"""Equation 1 is what the paper says, the stream is endless and aligned, and a killed run goes on."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ser.audio.augment import degrade
from ser.audio.load import SAMPLE_RATE_HZ
from ser.encoders.distillation.data import (
    CropSettings,
    CropStream,
    Position,
    TeacherTargets,
    align,
    find_audio,
)
from ser.encoders.distillation.distill import Distillation, DistillSettings, distillation_loss, schedule
from ser.encoders.distillation.student import StudentSettings, build_student, filterbank
from ser.encoders.encoder import Encoder
from ser.errors import SettingsError

SMALL = StudentSettings(
    hidden_size=32, layers=2, intermediate_size=32, heads=2, conv_dim=(20, 16, 16), position_kernel=16
)  # fmt: skip
CROPS = CropSettings(batch_size=4, crop_s=0.5, buffer=8)
SETTINGS = DistillSettings(teacher_layers=(1, 2), steps=4, crops=CROPS)


def numpy_equation_1(prediction: np.ndarray, target: np.ndarray, weight: float) -> float:
    """A plain transcription: loops, no torch."""
    total = 0.0
    for utterance, wanted in zip(prediction, target, strict=True):
        for frame, goal in zip(utterance, wanted, strict=True):
            l1 = sum(abs(a - b) for a, b in zip(frame, goal, strict=True)) / len(frame)
            cosine = float(np.dot(frame, goal) / (np.linalg.norm(frame) * np.linalg.norm(goal)))
            total += l1 - weight * np.log(1 / (1 + np.exp(-cosine)))
    return total / (prediction.shape[0] * prediction.shape[1])


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_loss_equals_a_numpy_transcription_of_equation_1(weight):
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((2, 3, 4, 7))
    ours = distillation_loss(torch.from_numpy(prediction), torch.from_numpy(target), weight)
    assert float(ours) == pytest.approx(numpy_equation_1(prediction, target, weight), rel=1e-9)


def test_the_gradient_of_the_loss_agrees_with_finite_differences():
    torch.manual_seed(0)
    prediction = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    target = torch.randn(2, 3, 5, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, target, 0.7), (prediction,))


def test_a_perfect_student_pays_only_for_the_cosine():
    target = torch.randn(2, 3, 5)
    expected = -torch.nn.functional.logsigmoid(torch.tensor(1.0))
    torch.testing.assert_close(distillation_loss(target, target), expected)


def test_the_student_makes_fifty_frames_a_second():
    student = build_student(SMALL)
    frames = student(torch.randn(1, 4 * SAMPLE_RATE_HZ)).last_hidden_state
    assert frames.shape == (1, (4 * SAMPLE_RATE_HZ - SMALL.receptive_samples) // 320 + 1, 32)
    assert SMALL.receptive_samples == 400 + 2 * 160 + 160


def test_a_front_end_that_does_not_make_fifty_frames_a_second_is_refused():
    with pytest.raises(SettingsError, match="160"):
        StudentSettings(conv_dim=(8, 8), conv_kernel=(10, 3), conv_stride=(80, 2))


def test_the_filter_bank_responds_most_at_its_own_frequency():
    weight, bias = filterbank(84, 400)
    time_s = np.arange(400) / SAMPLE_RATE_HZ
    centres = []
    for hz in (200, 1000, 4000):
        response = np.abs(weight[:80, 0].numpy() @ np.sin(2 * np.pi * hz * time_s)).reshape(20, 4).max(axis=1)
        centres.append(int(response.argmax()))
    assert centres == sorted(set(centres))
    assert (bias[80:] != 0).all()
    assert (weight[80:] == 0).all()


def test_targets_are_interpolated_to_the_students_frame_centres():
    targets = torch.arange(10.0)[None, :, None]  # the value of a frame is its number
    aligned = align(targets, first_frame=2, n_frames=4, shift=0.25)
    torch.testing.assert_close(aligned[0, :, 0], torch.tensor([2.25, 3.25, 4.25, 5.25]))
    assert align(targets, 8, 4, 0.5)[0, -1, 0] == 9  # beyond the end, the last frame


def test_degrading_keeps_length_and_type_and_follows_its_generator():
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    for seed in range(8):
        changed = degrade(samples, np.random.default_rng(seed))
        assert changed.shape == samples.shape
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
        assert not np.array_equal(changed, samples)
        assert np.array_equal(changed, degrade(samples, np.random.default_rng(seed)))


def test_the_learning_rate_rises_and_falls_to_zero():
    settings = DistillSettings(steps=100, warmup=0.1)
    rates = [schedule(step, settings) for step in range(101)]
    assert rates.index(max(rates)) == 9
    assert rates[100] == 0
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Five recordings of 0.3 to 2.5 s, and one file that is no recording."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(1)
    for number, duration_s in enumerate((0.3, 0.8, 1.2, 2.0, 2.5)):
        samples = 0.1 * rng.standard_normal(int(duration_s * SAMPLE_RATE_HZ))
        soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE_HZ)
    (folder / "broken.wav").write_bytes(b"RIFF nothing of the kind")
    return folder


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory) -> Path:
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("teacher")
    build_student(SMALL).save_pretrained(folder)
    return folder


@pytest.fixture
def teacher(teacher_folder) -> Encoder:
    return Encoder.load(teacher_folder)


def test_the_stream_goes_round_and_round_and_reports_what_it_cannot_read(recordings, teacher):
    bad: dict[str, str] = {}
    position = Position()
    stream = CropStream(
        find_audio([recordings]), TeacherTargets(teacher, (1, 2)), SMALL, CROPS, position,
        lambda path, message: bad.__setitem__(path.name, message),
    )  # fmt: skip
    batches = stream.batches()
    while position.epoch < 3:
        waveforms, targets = next(batches)
    assert waveforms.shape == (4, 8000)
    assert targets.shape == (2, 4, stream.n_frames, 32)
    assert list(bad) == ["broken.wav"]
    assert abs(float(waveforms[0].mean())) < 1e-3
    assert float(waveforms[0].var()) == pytest.approx(1, abs=1e-2)


def test_cached_targets_equal_fresh_ones_and_a_damaged_entry_is_computed_anew(teacher, tmp_path):
    samples = np.random.default_rng(2).standard_normal(8000).astype(np.float32)
    cached = TeacherTargets(teacher, (1, 2), tmp_path)
    fresh = TeacherTargets(teacher, (1, 2))(samples)
    assert torch.equal(cached(samples), fresh)
    (entry,) = tmp_path.rglob("*.safetensors")
    entry.write_bytes(b"damaged")
    assert torch.equal(cached(samples), fresh)
    assert torch.equal(cached(samples), fresh)


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="No recordings"):
        find_audio([tmp_path])
    with pytest.raises(SettingsError, match="no folder"):
        find_audio([tmp_path / "nowhere"])


def test_the_result_loads_strictly_and_gives_the_students_frames(recordings, teacher, tmp_path):
    lines: list[dict] = []
    run = Distillation(find_audio([recordings]), teacher, tmp_path, SETTINGS, SMALL)
    run.run(lines.append)
    assert lines[-1]["step"] == 4
    encoder = Encoder.load(tmp_path / "encoder")
    assert encoder.normalise
    samples = np.random.default_rng(3).standard_normal(8000).astype(np.float32)
    waveform = torch.from_numpy((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))[None]
    with torch.inference_mode():
        expected = run.distiller.eval().student(waveform).last_hidden_state[0]
    np.testing.assert_allclose(encoder([samples])[0], expected.numpy(), atol=0.02)  # half precision on disk


def test_a_run_goes_on_from_its_saved_state_and_refuses_another_teacher(recordings, teacher, tmp_path):
    files = find_audio([recordings])
    first = Distillation(files, teacher, tmp_path, SETTINGS, SMALL)
    first.run(lambda line: None)
    second = Distillation(files, teacher, tmp_path, SETTINGS, SMALL)
    assert second.step == 4
    for key, value in first.distiller.state_dict().items():
        assert torch.equal(value, second.distiller.state_dict()[key])
    longer = Distillation(files, teacher, tmp_path, replace(SETTINGS, steps=6), SMALL)
    longer.run(lambda line: None)
    assert longer.step == 6
    with pytest.raises(SettingsError, match="settings"):
        Distillation(
            files, teacher, tmp_path, DistillSettings(teacher_layers=(2,), steps=4, crops=CROPS), SMALL
        )


def test_a_run_can_begin_from_an_earlier_encoder_of_the_same_shape_only(recordings, teacher, tmp_path):
    files = find_audio([recordings])
    Distillation(files, teacher, tmp_path / "first", SETTINGS, SMALL).run(lambda line: None)
    start = Encoder.load(tmp_path / "first" / "encoder")
    second = Distillation(files, teacher, tmp_path / "second", SETTINGS, SMALL, start=start)
    second.export()
    samples = np.random.default_rng(3).standard_normal(8000).astype(np.float32)
    again = Encoder.load(tmp_path / "second" / "encoder")
    np.testing.assert_allclose(again([samples])[0], start([samples])[0], atol=0.02)  # half precision on disk
    assert second.identity["start"]["fingerprint"] == start.fingerprint
    with pytest.raises(SettingsError, match="another shape"):
        Distillation(
            files, teacher, tmp_path / "third", SETTINGS, replace(SMALL, hidden_size=64), start=start
        )


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_an_encoder(recordings, teacher_folder, tmp_path):
    command = [
        sys.executable,
        "-m",
        "ser",
        "distill",
        "--audio",
        str(recordings),
        "--teacher",
        str(teacher_folder),
    ]
    command += ["--teacher-layers", "1,2", "--out", str(tmp_path), "--steps", "300", "--batch-size", "4"]
    command += [
        "--crop-s",
        "0.5",
        "--hidden-size",
        "32",
        "--layers",
        "2",
        "--intermediate-size",
        "32",
        "--heads",
        "2",
    ]
    command += ["--save-every-s", "0.2"]
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < lines + 3):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "from step 0" not in done.stdout
    steps = [json.loads(line).get("step") for line in log.read_text().splitlines()]
    assert steps[-1] == 300
    Encoder.load(tmp_path / "encoder")
