"""An exported model answers as its checkpoint does, from one file, with no torch in the process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from model_support import TorchRecogniser
from support import RATE_HZ, ROOT, TINY, WHISPER, voice, write_voice

import ser
from ser.audio.load import load_audio
from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings
from ser.classifier.checkpoint import EncoderReference
from ser.classifier.ensemble import Ensemble
from ser.cli import main
from ser.encoders.encoder import Encoder
from ser.errors import AudioError, CheckpointError, SettingsError
from ser.files import DEMO_CORPUS, SHIPPED_CLASSIFIER
from ser.inference.model_file import read_file_description
from ser.labels import EMOTIONS
from ser.scoring.calibration import Calibration

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> TorchRecogniser:
    return TorchRecogniser.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def exported(predictor: TorchRecogniser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predictor.export(tmp_path_factory.mktemp("onnx") / "model.onnx")


def differently(predictor: TorchRecogniser, settings: ClassifierSettings, members: int = 1) -> TorchRecogniser:
    """The same encoder under another classifier of random weights."""
    torch.manual_seed(40)
    encoder = predictor.encoder.stacked(settings.stacked_layers)
    models = [BiGRUClassifier(encoder.dim, len(EMOTIONS), settings) for _ in range(members)]
    for buffer in (buffer for model in models for buffer in model.buffers()):
        buffer.normal_()
    classifier = Ensemble.of(models, [0.5 + member for member in range(members)]) if members > 1 else models[0]
    reference = EncoderReference("tiny", encoder.layer, encoder.fingerprint, encoder.dim)
    checkpoint = replace(predictor.checkpoint, encoder=reference, classifier=settings, members=members)
    return TorchRecogniser(checkpoint, classifier.eval(), encoder)


def values(predictor: Any, samples: np.ndarray) -> np.ndarray:
    return np.array(list(predictor((RATE_HZ, samples), timeline=False).probabilities.values()))


def run_alone(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file as any other program would run it."""
    session = onnxruntime.InferenceSession(path)
    return lambda samples: session.run(["probabilities"], {"waveform": samples})[0]


def assert_equal_answers(ours: Any, theirs: Any, samples: np.ndarray) -> None:
    here, there = (one((RATE_HZ, samples)) for one in (ours, theirs))
    assert there.emotion == here.emotion
    assert there.confident == here.confident
    assert there.duration_s == here.duration_s
    assert there.probabilities == pytest.approx(here.probabilities, abs=TOLERANCE)
    np.testing.assert_array_equal(there.timeline.start_s, here.timeline.start_s)
    np.testing.assert_array_equal(there.timeline.end_s, here.timeline.end_s)
    np.testing.assert_allclose(there.timeline.probabilities, here.timeline.probabilities, atol=TOLERANCE)


# ---- the same answers -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_twenty_clips_of_any_length_get_the_probabilities_of_torch(predictor, exported):
    theirs, alone = ser.load(exported), run_alone(exported)
    for seed in range(20):
        samples = voice(0.6 + 0.37 * seed, seed=seed)
        assert_equal_answers(predictor, theirs, samples)
        np.testing.assert_allclose(alone(samples), values(predictor, samples), atol=TOLERANCE)


@pytest.mark.slow
def test_a_recording_longer_than_thirty_seconds_is_encoded_in_pieces_as_on_torch(predictor, exported):
    assert_equal_answers(predictor, ser.load(exported), voice(67.3))


SHAPE = {"pooling": "attentive", "concatenated_layers": 2, "averaged_frames": 3, "functionals": True}
AS_SHIPPED = ClassifierSettings(8, 4, 1, **SHAPE)


@pytest.mark.parametrize(
    ("settings", "members"),
    [
        pytest.param(ClassifierSettings(8, 4, 1), 1, marks=pytest.mark.slow),
        pytest.param(ClassifierSettings(9, 3, 3), 1, marks=pytest.mark.slow),
        pytest.param(ClassifierSettings(8, 4, 2, pooling="attentive"), 1, marks=pytest.mark.slow),
        pytest.param(ClassifierSettings(8, 4, 2, weighted_layers=3), 1, marks=pytest.mark.slow),
        (ClassifierSettings(8, 4, 2, pooling="attentive", weighted_layers=2), 2),
        (AS_SHIPPED, 1),
        (ClassifierSettings(8, 4, 1, concatenated_layers=2, components=5), 1),
        pytest.param(ClassifierSettings(8, 4, 2), 3, marks=pytest.mark.slow),
    ],
    ids=[
        "one GRU",
        "three GRUs",
        "attentive",
        "weighted layers",
        "both, averaged",
        "as shipped",
        "principal components",
        "an ensemble",
    ],
)
def test_every_kind_of_classifier_can_be_exported(predictor, settings, members, tmp_path):
    ours = differently(predictor, settings, members)
    path = ours.export(tmp_path / "model.onnx")
    assert_equal_answers(ours, ser.load(path), voice(5.3))
    np.testing.assert_allclose(run_alone(path)(voice(5.3)), values(ours, voice(5.3)), atol=TOLERANCE)


def test_an_encoder_shaped_like_the_shipped_one_that_normalises_can_be_exported(predictor, tmp_path):
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(40)
    shape = TINY | {"conv_dim": (16,) * 3, "conv_kernel": (400, 3, 2), "conv_stride": (160, 1, 2)}
    model = HubertModel(HubertConfig(**shape, num_feat_extract_layers=3, feat_extract_norm="layer", conv_bias=True))
    model.save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / "preprocessor_config.json").write_text('{"do_normalize": true}')
    encoder = Encoder.load(tmp_path / "encoder")
    reference = EncoderReference("small", encoder.layer, encoder.fingerprint, encoder.dim)
    ours = TorchRecogniser(replace(predictor.checkpoint, encoder=reference), predictor.model, encoder)
    path = ours.export(tmp_path / "model.onnx")
    quiet = 0.1 * voice(3.1) + np.float32(0.1)
    assert_equal_answers(ours, ser.load(path), quiet)
    np.testing.assert_allclose(run_alone(path)(quiet), values(ours, quiet), atol=TOLERANCE)


def test_a_whisper_encoder_is_exported_with_its_spectrogram(predictor, tmp_path):
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(40)
    WhisperEncoder(WhisperConfig(**WHISPER)).save_pretrained(tmp_path / "encoder")
    encoder = Encoder.load(tmp_path / "encoder", engine="torch")
    reference = EncoderReference("whisper", encoder.layer, encoder.fingerprint, encoder.dim)
    ours = TorchRecogniser(replace(predictor.checkpoint, encoder=reference), predictor.model, encoder)
    path = ours.export(tmp_path / "model.onnx")
    assert_equal_answers(ours, ser.load(path), voice(3.1))
    np.testing.assert_allclose(run_alone(path)(voice(3.1)), values(ours, voice(3.1)), atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.skipif(not (SHIPPED_CLASSIFIER / "model.json").exists(), reason="no model ships in this tree")
def test_the_shipped_model_answers_two_hundred_recordings_as_torch_does(tmp_path):
    by_torch, ours = TorchRecogniser.load(SHIPPED_CLASSIFIER), ser.load()
    assert ours.encoder.engine.startswith("onnxruntime")
    clips = sorted(DEMO_CORPUS.glob("*.ogg"))
    assert len(clips) > 200
    for clip in clips:
        here, there = (one(clip, timeline=False).probabilities for one in (ours, by_torch))
        assert here == pytest.approx(there, abs=TOLERANCE), clip
    path = tmp_path / "model.onnx"
    assert main(["export", "--out", str(path)]) == 0
    for clip in clips[::10]:
        assert_equal_answers(by_torch, ser.load(path), load_audio(clip))


# ---- eight bits -------------------------------------------------------------------------------------------


def test_the_int8_variant_multiplies_whole_numbers_and_stays_close(predictor, tmp_path):
    path = predictor.export(tmp_path / "int8.onnx", int8=True)
    assert "MatMulInteger" in {node.op_type for node in onnx.load(path).graph.node}
    small = ser.load(path)
    assert read_file_description(path)["precision"] == "int8"
    np.testing.assert_allclose(values(small, voice(3.0)), values(predictor, voice(3.0)), atol=0.05)


def test_an_export_measures_on_labelled_recordings_what_it_answers_otherwise(
    tiny_checkpoint, predictor, tmp_path, capsys
):
    emotions = [*predictor.labels, "boredom"]
    files = [write_voice(tmp_path / f"{emotion}.wav", seed=i) for i, emotion in enumerate(emotions)]
    lines = ["path,speaker,emotion", *(f"{one.name},s{i},{one.stem}" for i, one in enumerate(files))]
    (tmp_path / "corpus.csv").write_text("\n".join(lines))
    arguments = ["export", "--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "model.onnx")]
    assert main([*arguments, "--corpus", str(tmp_path / "corpus.csv")]) == 0
    told = capsys.readouterr().out
    right = 100 * sum(predictor(one).emotion == one.stem for one in files) / (len(files) - 1)
    assert f"On {len(files) - 1} recordings: {right:.1f} % right by the checkpoint, {right:.1f} % by the file" in told
    assert "the same emotion for 100.0 %" in told
    assert main([*arguments, "--corpus", str(tmp_path / "corpus.csv"), "--emotions", "boredom"]) == 2
    assert "No recording of --corpus is labelled" in capsys.readouterr().err


# ---- one file, no torch -----------------------------------------------------------------------------------


def test_the_file_alone_says_what_it_is(exported, predictor):
    described = read_file_description(exported)["checkpoint"]
    assert tuple(described["labels"]) == EMOTIONS
    assert described["encoder"]["fingerprint"] == predictor.encoder.fingerprint
    assert described["calibration"] == vars(predictor.checkpoint.calibration)
    assert described["max_frames"] == predictor.checkpoint.max_frames
    assert read_file_description(exported)["licence"]
    assert [one.name for one in onnx.load(exported).graph.input] == ["waveform"]


def test_no_torch_and_no_transformers_are_imported_to_answer(exported, tmp_path):
    clip = write_voice(tmp_path / "clip.wav", 1.5, 44_100)
    code = f"""
import sys
from ser.cli import main
assert main(["predict", {str(clip)!r}, "--json", "--threads", "1"]) == 0
assert main(["predict", {str(clip)!r}, "--neutral", {str(clip)!r}]) == 0
assert main(["predict", {str(clip)!r}, "--checkpoint", {str(exported)!r}]) == 0
assert main(["info", {str(exported)!r}]) == 0
heavy = {{"torch", "torchaudio", "transformers", "sklearn", "scipy", "gradio"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["emotion"] in EMOTIONS


def test_unusable_recordings_get_the_same_message(exported, predictor):
    for samples in (np.zeros(RATE_HZ), np.full(RATE_HZ, np.nan), np.ones(100)):
        messages = []
        for one in (predictor, ser.load(exported)):
            with pytest.raises(AudioError) as caught:
                one((RATE_HZ, samples))
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_the_threshold_of_the_file_says_what_is_sure(exported, tmp_path):
    model = onnx.load(exported)
    (entry,) = model.metadata_props
    content = json.loads(entry.value)
    content["checkpoint"]["calibration"] = vars(Calibration(threshold=1.0))
    entry.value = json.dumps(content)
    onnx.save(model, tmp_path / "strict.onnx")
    assert not ser.load(tmp_path / "strict.onnx")((RATE_HZ, voice())).confident


# ---- what is refused --------------------------------------------------------------------------------------


def test_files_that_are_no_export_are_refused(exported, tmp_path):
    with pytest.raises(CheckpointError, match="no file"):
        ser.load(tmp_path / "nothing.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError):
        ser.load(tmp_path / "noise.onnx")
    (tmp_path / "half.onnx").write_bytes(exported.read_bytes()[: exported.stat().st_size // 2])
    with pytest.raises(CheckpointError):
        ser.load(tmp_path / "half.onnx")
    foreign = onnx.load(exported)
    foreign.metadata_props.clear()
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="another program"):
        ser.load(tmp_path / "foreign.onnx")
    with pytest.raises(SettingsError, match="its own encoder"):
        ser.load(exported, encoder="ntu-spml/distilhubert")


def test_a_damaged_description_is_refused(exported, tmp_path):
    for key, value in {"labels": ["one"], "calibration": {"threshold": 7}, "encoder": {}, "max_frames": 0}.items():
        model = onnx.load(exported)
        (entry,) = model.metadata_props
        content = json.loads(entry.value)
        content["checkpoint"][key] = value
        entry.value = json.dumps(content)
        onnx.save(model, tmp_path / "damaged.onnx")
        with pytest.raises(CheckpointError, match="damaged"):
            ser.load(tmp_path / "damaged.onnx")


def test_an_export_goes_into_a_file_that_other_commands_know(tmp_path, capsys):
    assert main(["export", "--out", str(tmp_path / "model.bin")]) == 2
    assert ".onnx" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_exports_checks_and_says_how_close(tiny_checkpoint, tmp_path, capsys):
    path = tmp_path / "new" / "model.onnx"
    assert main(["export", "--out", str(path), "--checkpoint", str(tiny_checkpoint)]) == 0
    assert "within" in capsys.readouterr().out
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["labels"] == list(EMOTIONS)
