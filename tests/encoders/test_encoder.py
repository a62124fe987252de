"""Frames are transformers' own hidden states of one utterance alone; bad weights are said in a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file
from support import RATE_HZ, TINY, WHISPER, voice

from ser.encoders.encoder import Encoder
from ser.errors import EncoderError
from ser.files import SHIPPED_ENCODER
from ser.runtime import import_torchaudio

import_torchaudio()
import transformers  # noqa: E402  after torchaudio is usable
from transformers.models.whisper.modeling_whisper import WhisperEncoder  # noqa: E402

KINDS: dict[str, Callable[[], Any]] = {
    "hubert, group norm": lambda: transformers.HubertModel(transformers.HubertConfig(**TINY)),
    "hubert, layer norm": lambda: transformers.HubertModel(
        transformers.HubertConfig(**TINY, feat_extract_norm="layer", do_stable_layer_norm=True)
    ),
    "wav2vec 2.0": lambda: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**TINY)),
    "wavlm": lambda: transformers.WavLMModel(transformers.WavLMConfig(**TINY)),
    "whisper": lambda: WhisperEncoder(transformers.WhisperConfig(**WHISPER)),
}
UNEQUAL = [voice(1.0, seed=1), voice(2.3, seed=2), voice(1.0, seed=3), voice(0.1, seed=4)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of random weights for each kind of encoder."""
    made = {}
    for name, build in KINDS.items():
        torch.manual_seed(40)
        made[name] = tmp_path_factory.mktemp("kind")
        build().save_pretrained(made[name])
    return made


@pytest.fixture
def damaged(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny encoder, to be damaged."""
    return Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Copies: `load_file` maps the file into memory, which does not survive its being overwritten."""
    return load((folder / "model.safetensors").read_bytes())


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- frames -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_50_frames_a_second_of_the_model_s_width(folders, kind):
    encoder = Encoder.load(folders[kind])
    for samples, frames in zip(UNEQUAL, encoder(UNEQUAL), strict=True):
        assert frames.dtype == np.float32
        assert frames.shape[1] == encoder.dim == 32
        assert abs(frames.shape[0] - samples.size / RATE_HZ * 50) <= 1
        assert np.isfinite(frames).all()


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "whisper"])
def test_layer_k_is_what_transformers_gives_for_it_and_the_last_its_last_hidden_state(folders, kind, layer):
    independent = type(KINDS[kind]()).from_pretrained(folders[kind]).eval()
    with torch.no_grad():
        expected = independent(torch.from_numpy(UNEQUAL[0])[None], output_hidden_states=True)
    states = [*expected.hidden_states[:2], expected.last_hidden_state]
    (frames,) = Encoder.load(folders[kind], layer, engine="torch")([UNEQUAL[0]])
    np.testing.assert_allclose(frames, states[layer][0].numpy(), atol=1e-5)


def test_the_last_layer_of_a_model_with_a_norm_behind_it_is_taken_after_that_norm(folders):
    encoder = Encoder.load(folders["hubert, layer norm"], engine="torch")
    norm = encoder.model.encoder.layer_norm
    norm.weight.data.uniform_(0.5, 2.0)  # fresh norms change too little to be seen
    waveform = torch.from_numpy(UNEQUAL[0])[None]
    with torch.no_grad():
        expected = encoder.model(waveform, output_hidden_states=True)
    assert (expected.hidden_states[-1] - expected.last_hidden_state).abs().max() > 0.1
    np.testing.assert_allclose(encoder([UNEQUAL[0]])[0], expected.last_hidden_state[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_whisper_without_padding_equals_the_library_on_its_own_30_seconds(folders, layer):
    samples = voice(30.0)
    independent = WhisperEncoder.from_pretrained(folders["whisper"]).eval()
    mel = transformers.WhisperFeatureExtractor()(samples, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.no_grad():
        expected = independent(mel.input_features, output_hidden_states=True).hidden_states
    (frames,) = Encoder.load(folders["whisper"], layer, engine="torch")([samples])
    np.testing.assert_allclose(frames, expected[layer][0].numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_of_an_utterance_do_not_depend_on_the_utterances_beside_it(folders, kind):
    encoder = Encoder.load(folders[kind])
    for samples, together in zip(UNEQUAL, encoder(UNEQUAL), strict=True):
        np.testing.assert_allclose(together, encoder([samples])[0], atol=1e-4)


def test_zero_padding_would_change_the_frames_of_a_model_with_a_group_norm(folders):
    """Why only utterances of equal length share a batch."""
    encoder = Encoder.load(folders["hubert, group norm"])
    (alone,) = encoder([UNEQUAL[0]])
    padded = torch.nn.functional.pad(torch.from_numpy(UNEQUAL[0]), (0, RATE_HZ))[None]
    with torch.no_grad():
        inside = encoder.hidden_states(padded, [encoder.layer])[0][0, : len(alone)].numpy()
    assert np.abs(inside - alone).max() > 0.1


@pytest.mark.parametrize("kind", ["hubert, group norm", "whisper"])
def test_a_long_recording_is_encoded_in_pieces_whose_frames_follow_each_other(folders, kind):
    encoder = Encoder.load(folders[kind])
    samples = voice(70.0)
    (frames,) = encoder([samples])
    assert abs(len(frames) - 70 * 50) <= 1
    third = -(-samples.size // 3 // 320) * 320
    (first,) = encoder([samples[: third + encoder.overlap]])
    np.testing.assert_allclose(frames[: len(first)], first, atol=1e-4)


def test_the_preprocessor_s_do_normalize_is_honoured(tiny_encoder, damaged):
    (damaged / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    plain, normalising = Encoder.load(tiny_encoder), Encoder.load(damaged)
    samples = voice()
    expected = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)(samples, sampling_rate=RATE_HZ)
    (frames,) = normalising([samples])
    np.testing.assert_allclose(frames, plain([np.asarray(expected.input_values[0], np.float32)])[0], atol=1e-4)
    np.testing.assert_allclose(frames, normalising([0.1 * samples])[0], atol=1e-3)  # loudness no longer matters
    assert np.abs(frames - plain([samples])[0]).max() > 1e-3


# ---- identity ---------------------------------------------------------------------------------------------


def test_the_fingerprint_is_stable_and_tells_weights_layer_and_normalisation_apart(tiny_encoder, damaged):
    fingerprint = Encoder.load(tiny_encoder).fingerprint
    assert fingerprint == Encoder.load(damaged).fingerprint == Encoder.load(tiny_encoder, layer=2).fingerprint
    others = [Encoder.load(tiny_encoder, layer=1).fingerprint]
    (damaged / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    others.append(Encoder.load(damaged).fingerprint)
    weights = weights_of(damaged)
    weights["encoder.layer_norm.bias"][3] += 1e-6
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    (damaged / "preprocessor_config.json").unlink()
    others.append(Encoder.load(damaged).fingerprint)
    assert len({fingerprint, *others}) == 4


@pytest.mark.parametrize(
    "change", [{"num_attention_heads": 4}, {"layer_norm_eps": 0.5}, {"hidden_act": "relu"}, {"final_norm": False}]
)
def test_the_fingerprint_tells_configurations_apart_that_compute_otherwise_with_the_same_weights(
    tiny_encoder, damaged, change
):
    change_config(damaged, **change)
    assert Encoder.load(damaged).fingerprint != Encoder.load(tiny_encoder).fingerprint


def test_what_only_training_or_other_tasks_read_is_no_part_of_the_fingerprint(tiny_encoder, damaged):
    change_config(damaged, hidden_dropout=0.7, vocab_size=77, dtype="float16", transformers_version="1.0")
    assert Encoder.load(damaged).fingerprint == Encoder.load(tiny_encoder).fingerprint


def test_a_folder_is_remembered_by_its_absolute_path_however_it_was_typed(damaged, monkeypatch):
    (damaged.parent / "my").mkdir()
    folder = damaged.rename(damaged.parent / "my" / "encoder")  # which looks like a hub id
    monkeypatch.chdir(folder.parent.parent)
    sources = {Encoder.load(typed).source for typed in ("my/encoder", "./my/encoder", "my/../my/encoder/", folder)}
    assert sources == {str(folder.resolve())}
    monkeypatch.chdir("/")
    assert Encoder.load(sources.pop()).name == "encoder"


def test_the_shipped_encoder_is_loaded_by_its_word(damaged, monkeypatch):
    encoder = Encoder.load("shipped")
    assert (encoder.source, encoder.name) == ("shipped", "shipped")
    assert encoder.fingerprint == Encoder.load(SHIPPED_ENCODER).fingerprint


def test_the_fingerprint_does_not_depend_on_the_number_of_threads(tmp_path):
    wide = TINY | {"hidden_size": 256, "num_conv_pos_embeddings": 128}
    transformers.HubertModel(transformers.HubertConfig(**wide)).save_pretrained(tmp_path)
    before = torch.get_num_threads()
    fingerprints = set()
    for n_threads in (1, 2, 4):
        torch.set_num_threads(n_threads)
        fingerprints.add(Encoder.load(tmp_path).fingerprint)
    torch.set_num_threads(before)
    assert len(fingerprints) == 1


def test_a_vector_that_only_training_uses_may_be_missing_and_is_no_part_of_the_identity(tiny_encoder, damaged):
    weights = weights_of(damaged)
    del weights["masked_spec_embed"]
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    assert Encoder.load(damaged).fingerprint == Encoder.load(tiny_encoder).fingerprint


def test_a_loaded_encoder_survives_that_its_file_is_overwritten(damaged):
    encoder = Encoder.load(damaged)
    (before,) = encoder([voice()])
    with (damaged / "model.safetensors").open("r+b") as file:
        file.truncate(1_000)
    np.testing.assert_array_equal(encoder([voice()])[0], before)


def test_half_precision_weights_give_float32_frames(damaged):
    weights = {key: tensor.half() for key, tensor in weights_of(damaged).items()}
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    assert Encoder.load(damaged)([voice()])[0].dtype == np.float32


@pytest.mark.parametrize("whole", ["WhisperModel", "WhisperForConditionalGeneration"])
def test_the_encoder_of_a_whole_whisper_is_found(tmp_path, whole):
    model = getattr(transformers, whole)(transformers.WhisperConfig(**WHISPER))
    model.save_pretrained(tmp_path)
    encoder = Encoder.load(tmp_path)
    expected = model.get_encoder().layer_norm.weight
    assert torch.equal(encoder.model.layer_norm.weight, expected)


def test_a_model_that_was_fine_tuned_for_another_task_serves_as_an_encoder(tmp_path, capfd):
    transformers.HubertForCTC(transformers.HubertConfig(**TINY, vocab_size=8)).save_pretrained(tmp_path)
    capfd.readouterr()
    assert Encoder.load(tmp_path)([voice()])[0].shape[1] == 32
    assert capfd.readouterr() == ("", "")  # no table of unused keys


# ---- errors -----------------------------------------------------------------------------------------------


def test_damaged_folders_are_refused_with_the_reason(damaged, capfd):
    def message() -> str:
        with pytest.raises(EncoderError) as caught:
            Encoder.load(damaged)
        assert capfd.readouterr() == ("", "")
        return str(caught.value)

    capfd.readouterr()
    weights = damaged / "model.safetensors"
    whole, tensors = weights.read_bytes(), weights_of(damaged)

    weights.write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded" in message()
    weights.write_bytes(b"not weights")
    assert "cannot be loaded" in message()
    weights.unlink()
    assert "cannot be loaded" in message()

    kept = {key: tensor for key, tensor in tensors.items() if key != "encoder.layers.1.attention.k_proj.weight"}
    save_file(kept, weights, {"format": "pt"})
    assert "1 missing" in message()
    tensors["encoder.layer_norm.bias"] = torch.zeros(31)
    save_file(tensors, weights, {"format": "pt"})
    assert "encoder" in message()

    weights.write_bytes(whole)
    change_config(damaged, num_hidden_layers=3)
    assert "missing" in message()
    for layers in (100_000, "many"):
        change_config(damaged, num_hidden_layers=layers)
        assert f"claims {layers} layers" in message()
    change_config(damaged, num_hidden_layers=2, model_type="bert")
    assert "'bert'" in message()
    (damaged / "config.json").write_text("{")
    assert "config.json" in message()
    (damaged / "config.json").unlink()
    assert "config.json" in message()


def test_an_encoder_with_another_frame_rate_is_refused(tmp_path):
    config = transformers.HubertConfig(**TINY | {"conv_dim": (16,) * 7}, conv_stride=(5, 2, 2, 2, 2, 2, 1))
    transformers.HubertModel(config).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="every 160 samples"):
        Encoder.load(tmp_path)


def test_a_layer_that_is_not_there_is_refused(tiny_encoder):
    for layer in (-1, 3):
        with pytest.raises(EncoderError, match="layers 0 to 2"):
            Encoder.load(tiny_encoder, layer)


def test_a_hub_id_out_of_reach_names_the_command_that_fetches_it(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match=r"hf download ntu-spml/distilhubert$"):
        Encoder.load("ntu-spml/distilhubert")
    with pytest.raises(EncoderError, match=r"hf download ntu-spml/distilhubert --revision main$"):
        Encoder.load("ntu-spml/distilhubert@main")


@pytest.mark.parametrize("source", ["nowhere", "./runs/encoder", "/nowhere/encoder", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(source):
    with pytest.raises(EncoderError, match="no encoder folder"):
        Encoder.load(source)


# ---- a real model -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_encoder_of_whisper_base_hears_real_speech_the_same_alone_and_in_company(shared_data):
    encoder = Encoder.load(shared_data("../models/whisper-base-encoder"), layer=3)
    from ser.audio.load import load_audio

    clips = [load_audio(path) for path in sorted(shared_data("urdu").rglob("*.flac"))[:3]]
    together = encoder(clips)
    assert together[0].shape == (len(clips[0]) // 320, 512)
    np.testing.assert_allclose(together[1], encoder([clips[1]])[0], atol=1e-3)
