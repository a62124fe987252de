"""Equation 1 is what the paper says, the stream is endless and aligned, and a killed run goes on."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support import TINY, WHISPER, voice

from ser.audio.augment import degrade
from ser.audio.load import SAMPLE_RATE_HZ, load_audio
from ser.cli import main
from ser.encoders.distillation.data import (
    LEVEL,
    CropSettings,
    CropStream,
    Position,
    align,
    find_audio,
    teacher_statistics,
)
from ser.encoders.distillation.distill import Distillation, DistillSettings, distillation_loss, schedule
from ser.encoders.distillation.student import Distiller, Student
from ser.encoders.encoder import Encoder
from ser.encoders.states import hidden_states
from ser.errors import SettingsError
from ser.runtime import import_torchaudio

import_torchaudio()
import transformers  # noqa: E402  after torchaudio is usable
from transformers.models.whisper.modeling_whisper import WhisperEncoder  # noqa: E402

CROPS = CropSettings(batch_size=4, crop_s=0.5, buffer=8)
SETTINGS = DistillSettings(teacher_layers=(1, 2), steps=4, crops=CROPS)
KINDS = ("hubert", "hubert, norm behind the last layer", "wav2vec 2.0", "wavlm", "whisper")


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
def test_the_loss_and_its_gradient_are_those_of_equation_1(weight):
    prediction, target = np.random.default_rng(0).standard_normal((2, 3, 4, 7))
    ours = partial(distillation_loss, target=torch.from_numpy(target), cosine_weight=weight)
    given = torch.from_numpy(prediction).requires_grad_()
    assert float(ours(given)) == pytest.approx(numpy_equation_1(prediction, target, weight), rel=1e-9)
    assert torch.autograd.gradcheck(ours, (given,))


def test_targets_are_interpolated_to_the_students_frame_centres():
    targets = torch.arange(10.0)[None, :, None]  # the value of a frame is its number
    aligned = align(targets, first_frame=2, n_frames=4, shift=0.25)
    torch.testing.assert_close(aligned[0, :, 0], torch.tensor([2.25, 3.25, 4.25, 5.25]))
    assert align(targets, 8, 4, 0.5)[0, -1, 0] == 9  # beyond the end, the last frame


def test_degrading_keeps_length_and_type_and_follows_its_generator():
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    for seed in range(8):
        changed, again = (degrade(samples, np.random.default_rng(seed)) for _ in range(2))
        assert (changed.shape, changed.dtype) == (samples.shape, np.float32)
        assert np.isfinite(changed).all()
        assert not np.array_equal(changed, samples)
        assert np.array_equal(changed, again)


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
def teachers(tmp_path_factory) -> dict[str, Path]:
    """A folder of random weights for each kind of teacher, three layers deep, its norms far from the identity."""
    deep = TINY | {"num_hidden_layers": 3}
    behind = deep | {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
    models = {
        "hubert": transformers.HubertModel(transformers.HubertConfig(**deep)),
        "hubert, norm behind the last layer": transformers.HubertModel(transformers.HubertConfig(**behind)),
        "wav2vec 2.0": transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**deep)),
        "wavlm": transformers.WavLMModel(transformers.WavLMConfig(**deep)),
        "whisper": WhisperEncoder(transformers.WhisperConfig(**WHISPER | {"encoder_layers": 3})),
    }
    folders = {}
    for kind, model in models.items():
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if "norm.weight" in name:
                parameter.data.uniform_(0.5, 2.0)
        folders[kind] = tmp_path_factory.mktemp("teacher")
        model.save_pretrained(folders[kind])
    return folders


@pytest.fixture
def teacher(teachers) -> Encoder:
    return Encoder.load(teachers["hubert"], engine="torch")


def distillation(files: Path, teacher: Encoder, out: Path, **settings: object) -> Distillation:
    student = Student.first_layers(teacher, 1)
    return Distillation(find_audio([files]), teacher, student, out, replace(SETTINGS, **settings))


def command(teacher: Path, words: str, *paths: object) -> list[str]:
    """`ser distill`; a path for each `{}` among the words."""
    given = map(str, paths)
    return ["distill", "--teacher", str(teacher), *(next(given) if one == "{}" else one for one in words.split())]


def quietly(line: object) -> None:
    """Nobody listens."""


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layers_of_a_teacher_give_its_frames_of_layer_n(teachers, kind, n, tmp_path):
    teacher = Encoder.load(teachers[kind], n, engine="torch")
    Student.first_layers(teacher, n).write(tmp_path, {})
    student = Encoder.load(tmp_path, engine="torch")
    assert student.n_layers == n
    assert type(student.model) is type(teacher.model)
    np.testing.assert_allclose(student([voice()])[0], teacher([voice()])[0], atol=1e-5)


def test_distilhubert_s_own_shape_is_made_from_a_hubert(teacher, tmp_path):
    """Figure 2: group norm, no bias in the convolutions, two layers; heads for deeper layers."""
    student = Student.first_layers(teacher, 2)
    assert student.model.config.feat_extract_norm == "group"
    assert not student.model.config.conv_bias
    missing = teacher.model.state_dict().keys() - student.model.state_dict().keys()
    known = ("layers.2.", "pos_conv_embed", "masked_spec_embed")  # the second is under a weight norm
    assert all(any(part in key for part in known) for key in missing)
    heads = Distiller(student.model, 3, teacher.dim)
    assert heads(torch.zeros(2, 8000)).shape == (3, 2, 24, 32)
    for n in (0, 4):
        with pytest.raises(SettingsError, match="layers 1 to 3"):
            Student.first_layers(teacher, n)


def test_a_student_has_no_dropout_and_no_masking(teacher):
    config = teacher.model.config
    config.hidden_dropout = config.layerdrop = config.mask_time_prob = 0.5
    student = Student.first_layers(teacher, 2).model.train()
    waveform = torch.from_numpy(voice())[None]
    once, again = (student(waveform).last_hidden_state for _ in range(2))
    assert torch.equal(once, again)


def test_the_command_writes_a_teacher_s_first_layers_without_recordings(teachers, tmp_path):
    words = command(teachers["whisper"], "--from-teacher 2 --steps 0 --out")
    for name, more in (("whole", []), ("half", ["--half", "--licence", "MIT"]), ("speech", ["--speech-only"])):
        assert main([*words, str(tmp_path / name), *more]) == 0
    whole, half, speech = (tmp_path / name / "encoder" for name in ("whole", "half", "speech"))
    assert sorted(path.name for path in half.iterdir()) == [
        "config.json", "distillation.json", "model.safetensors", "preprocessor_config.json"
    ]  # fmt: skip
    assert (half / "model.safetensors").stat().st_size < 0.6 * (whole / "model.safetensors").stat().st_size
    teacher = Encoder.load(teachers["whisper"], 2, engine="torch")
    np.testing.assert_allclose(Encoder.load(half)([voice()])[0], teacher([voice()])[0], atol=0.02)
    about = json.loads((half / "distillation.json").read_text())
    assert (about["licence"], about["teacher"]["name"]) == ("MIT", teacher.name)
    assert about["student"]["layers"] == 2
    told, alone = Encoder.load(whole), Encoder.load(speech)  # of all sound, of speech alone
    assert (told.speech_only, alone.speech_only) == (False, True)
    assert told.fingerprint != alone.fingerprint
    assert Student.first_layers(alone).speech_only


def test_training_without_recordings_and_a_device_that_is_not_there_are_refused(
    teachers, tmp_path, capsys, monkeypatch
):
    words = command(teachers["hubert"], "--from-teacher 1 --out {}", tmp_path)
    assert main(words) == 2
    assert "--audio" in capsys.readouterr().err
    monkeypatch.setenv("SER_DEVICE", "nonsense")
    assert main([*words, "--steps", "0"]) == 2
    assert "SER_DEVICE is 'nonsense'" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="No recordings"):
        find_audio([tmp_path])
    with pytest.raises(SettingsError, match="no folder"):
        find_audio([tmp_path / "nowhere"])


def stream_of(files: list[Path], teacher: Encoder, settings: CropSettings = CROPS) -> CropStream:
    return CropStream(files, teacher, (1, 2), Student.first_layers(teacher, 1), settings, Position())


def test_the_stream_goes_round_and_round_and_reports_what_it_cannot_read(recordings, teacher):
    stream = stream_of(find_audio([recordings]), teacher)
    batches = stream.batches()
    while stream.position.epoch < 3:
        waveforms, targets = next(batches)
    assert waveforms.shape == (4, 8000)
    assert targets.shape == (2, 4, stream.n_frames, 32)
    assert [Path(path).name for path in stream.bad_files] == ["broken.wav"]


def test_a_student_that_normalises_hears_crops_of_unit_variance(recordings, teacher):
    teacher.normalise = True
    waveforms, _ = next(stream_of(find_audio([recordings]), teacher).batches())
    assert waveforms.mean(dim=1).abs().max() < 1e-3
    torch.testing.assert_close(waveforms.var(dim=1), torch.ones(4), atol=1e-2, rtol=0)


def test_a_speed_of_one_and_no_degradation_leave_all_but_the_level(recordings, teacher):
    plain = replace(CROPS, speeds=(1.0,), degrade=0.0)
    (block,) = itertools.islice(stream_of([recordings / "2.wav"], teacher, plain).blocks(), 1)
    samples = load_audio(recordings / "2.wav")
    np.testing.assert_allclose(block, samples * (LEVEL / np.sqrt(np.mean(samples**2))), atol=1e-5)


def test_the_statistics_are_those_of_all_frames(recordings, teacher):
    files = [recordings / "2.wav", recordings / "3.wav"]
    blocks = itertools.islice(stream_of(files, teacher).blocks(), 3)  # the third begins the second epoch
    stream = stream_of(files, teacher)
    frames = torch.cat([stream.states(block).float() for block in blocks], dim=1)
    mean, scale = teacher_statistics(stream)
    torch.testing.assert_close(mean[:, 0, 0], frames.mean(dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scale[:, 0, 0], frames.std(dim=1), atol=1e-3, rtol=0.02)


@pytest.mark.parametrize("kind", ["hubert", "whisper"])
def test_the_result_loads_strictly_and_gives_the_student_s_frames(recordings, teachers, kind, tmp_path):
    lines: list[dict] = []
    run = distillation(recordings, Encoder.load(teachers[kind], engine="torch"), tmp_path)
    run.run(lines.append, quietly)
    assert lines[-1]["step"] == 4
    (found,) = Encoder.load(run.export(), engine="torch")([voice()])
    with torch.inference_mode():
        (expected,) = hidden_states(run.student.model.eval(), torch.from_numpy(voice())[None], [1])
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-4)
    assert np.abs(found - Encoder.load(teachers[kind], 1)([voice()])[0]).max() > 1e-3  # it learnt


def test_a_run_resumes_from_its_saved_state_and_says_what_it_waits_for(recordings, teacher, tmp_path):
    said: list[str] = []
    first = distillation(recordings, teacher, tmp_path)
    first.run(quietly, said.append)
    second = distillation(recordings, teacher, tmp_path)
    assert second.step == 4
    for key, value in first.distiller.state_dict().items():
        assert torch.equal(value, second.distiller.state_dict()[key])
    longer = distillation(recordings, teacher, tmp_path, steps=6)
    longer.run(quietly, said.append)
    assert longer.step == 6
    assert [words[-14:] for words in said[1:]] == ["before step 1.", "before step 5."]
    with pytest.raises(SettingsError, match="other settings"):
        distillation(recordings, teacher, tmp_path, teacher_layers=(2,))


def test_a_run_that_ends_before_its_first_step_keeps_the_scale_of_the_teacher_s_layers(recordings, teacher, tmp_path):
    def end(text: str) -> None:
        if "before step" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distillation(recordings, teacher, tmp_path).run(quietly, end)
    assert distillation(recordings, teacher, tmp_path).distiller.scale.min() > 0


def test_without_standardising_equation_1_meets_the_teacher_s_own_values(recordings, teacher, tmp_path):
    run = distillation(recordings, teacher, tmp_path, standardise=False, cosine_weight=0.0)
    for head in run.distiller.heads:
        head.weight.data.zero_()
        head.bias.data.zero_()
    targets = torch.full((2, 4, 24, 32), 7.0)
    assert run._step(torch.zeros(4, 8000), targets) == pytest.approx([7.0, 7.0])
    said: list[str] = []
    run.run(quietly, said.append)
    assert len(said) == 1  # no scale is measured


def test_a_run_can_begin_as_any_encoder_and_is_logged_from_its_start(
    recordings, teachers, tmp_path, monkeypatch, capsys
):
    own, out = tmp_path / "own", tmp_path / "run"
    shape = TINY | {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3}
    transformers.HubertModel(transformers.HubertConfig(**shape)).save_pretrained(own)
    logged, run = [], Distillation.run

    def watched(self: Distillation, *arguments: object) -> None:
        logged.append((out / "log.jsonl").read_text())
        run(self, *arguments)

    monkeypatch.setattr(Distillation, "run", watched)
    words = "--init {} --audio {} --out {} --teacher-layers 2,3 --speeds 1 --steps 2 --batch-size 2 --crop-s 0.5"
    words += " --buffer 4 --no-standardise"
    (recordings / "sound.xyz").touch()
    assert main(command(teachers["hubert"], words, own, recordings, out)) == 0
    (recordings / "sound.xyz").unlink()
    assert f"{recordings}: 1 files are no recordings by their suffix: .xyz 1." in capsys.readouterr().err
    assert "started" in json.loads(logged[0])
    assert Encoder.load(out / "encoder").dim == 48
    about = json.loads((out / "encoder" / "distillation.json").read_text())
    assert (about["student"]["name"], about["settings"]["crops"]["speeds"]) == ("own", [1.0])


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_an_encoder(recordings, teachers, tmp_path):
    words = "--from-teacher 1 --audio {} --teacher-layers 2,3 --out {} --steps 160 --batch-size 4 --crop-s 0.5"
    words += " --save-every-s 0.2"
    run = [sys.executable, "-m", "ser", *command(teachers["hubert"], words, recordings, tmp_path)]
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL)
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < lines + 3):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "from step 0" not in done.stdout
    assert json.loads(log.read_text().splitlines()[-1])["step"] == 160
    Encoder.load(tmp_path / "encoder")
