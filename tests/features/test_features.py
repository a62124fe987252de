"""The feature cache: computed once, never wrong, whatever happens to the processes and the files."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
import torch
from feature_support import FakeEncoder, assert_right, files_of, write_clips
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.decomposition import PCA
from support import ROOT, voice, write_voice

from ser.audio.load import load_audio
from ser.cli import main
from ser.corpora.corpus import Corpus, Utterance
from ser.encoders.encoder import Encoder
from ser.errors import CacheError, CorpusError, SettingsError
from ser.features import cache as cache_module
from ser.features.cache import FeatureCache
from ser.features.extract import extract, usable_features
from ser.features.reduce import averaged, averaged_each, principal_components, useful_dimensions

LIMIT_BYTES = 2_000  # of a file, where the system sets one
WAIT_S = 300.0  # for a machine that does much else


def corpus_of(paths: list[Path]) -> Corpus:
    return Corpus("fake", paths[0].parent, tuple(Utterance(path, "S", "anger", None, "fake") for path in paths))


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    return write_clips(tmp_path / "clips", 12)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser.features.cache.FILE_BYTES", 500)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.wav"
    path.write_text("not a recording")
    return path


def assert_computes(n: int, clips: list[Path], cache: FeatureCache) -> None:
    """The right features come, and so many of them are new."""
    encoder = FakeEncoder()
    assert_right(extract(clips, encoder, cache), clips)
    assert encoder.n_encoded == n


def damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))  # a clock ticks too slowly for a test


def test_features_are_computed_once_and_come_back_in_the_order_of_the_clips(clips, cache, small_files):
    first = extract(corpus_of(clips), FakeEncoder(), cache)  # a corpus and its paths are the same to it
    assert first.n_computed == 12
    assert_right(first, clips)
    twin = clips[0].with_name("twin.wav")
    twin.write_bytes(clips[0].read_bytes())
    assert_computes(0, [twin, *clips[::-1]], cache)
    assert extract([str(path) for path in clips], FakeEncoder(), cache).n_computed == 0
    assert len(files_of(cache)) > 3


def test_a_renamed_clip_keeps_its_features_and_a_changed_one_gets_new_ones(clips, cache):
    twins = [clips[0], clips[0].with_name("twin.wav")]
    twins[1].write_bytes(clips[0].read_bytes())
    assert_computes(1, twins, cache)
    assert_computes(len(clips) - 1, clips, cache)
    renamed = clips[0].rename(clips[0].with_name("other.wav"))
    soundfile.write(clips[1], np.linspace(-0.5, 0.5, 4_000), 16_000)
    assert_computes(1, [renamed, *clips[1:]], cache)


def test_another_encoder_layer_or_setting_has_features_of_its_own(clips, cache):
    extract(clips, FakeEncoder(), cache)
    other, deeper, shorter = FakeEncoder(dim=4), FakeEncoder(), FakeEncoder()
    other.fingerprint, deeper.layer = "other", 3
    assert extract(clips, other, cache).dim == 4
    extract(clips, deeper, cache)
    extract(clips, shorter, cache, max_duration_s=9.0)
    assert other.n_encoded == deeper.n_encoded == shorter.n_encoded == len(clips)


def test_an_encoder_of_speech_alone_is_not_told_of_the_silence_around_it(tmp_path, cache):
    spoken, silence = voice(2.0), np.zeros(16_000, np.float32)
    files = [tmp_path / "spoken.wav", tmp_path / "padded.wav"]
    soundfile.write(files[0], spoken, 16_000)
    soundfile.write(files[1], 0.1 * np.concatenate([silence, spoken, silence]), 16_000)
    encoder = FakeEncoder()
    plain = extract(files, encoder, cache)
    assert plain.lengths[1] == plain.lengths[0] + 100
    encoder.speech_only, encoder.fingerprint = True, "speech"
    alone = extract(files, encoder, cache)
    assert alone.lengths[1] == pytest.approx(alone.lengths[0], abs=11)  # a margin at both ends
    assert alone.lengths[0] == pytest.approx(plain.lengths[0], abs=10)


def test_gather_packs_clips_one_after_the_other_and_cuts_long_ones(clips, cache):
    features = extract(clips, FakeEncoder(), cache)
    frames, lengths = features.gather([4, 0, 4], max_frames=11)
    assert lengths.tolist() == [11, 10, 11]
    assert (frames.dtype, lengths.dtype) == (np.float32, np.int64)
    expected = [features[4][:11], features[0], features[4][:11]]
    np.testing.assert_array_equal(frames, np.concatenate(expected).astype(np.float32))
    whole, lengths = features.gather([])
    assert whole.shape == (0, 8)
    assert lengths.shape == (0,)


def test_several_layers_a_frame_are_kept_as_they_are(clips, cache):
    class TwoLayers(FakeEncoder):
        def _frames(self, samples):
            one = super()._frames(samples)
            return np.stack([one, -one], axis=1)

    features = extract(clips, TwoLayers(), cache)
    assert features.frame_shape == (2, 8)
    assert features.gather([0, 1])[0].shape[1:] == (2, 8)


# ---- reductions -------------------------------------------------------------------------------------------


def test_the_last_average_is_of_the_frames_that_are_left():
    frames = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_allclose(averaged(frames, 2), [[1, 2], [5, 6], [8, 9]])
    averages, lengths = averaged_each(np.concatenate([frames, frames[:3]]), np.array([5, 3]), 2)
    assert lengths.tolist() == [3, 2]
    np.testing.assert_allclose(averages, np.concatenate([averaged(frames, 2), averaged(frames[:3], 2)]))


def test_principal_components_come_from_the_given_utterances_alone():
    rng = np.random.default_rng(0)
    frames = (rng.standard_normal((90, 2)) * (3, 1)) @ rng.standard_normal((2, 6)) + rng.standard_normal(6)

    def gather(indices):
        assert set(indices) <= set(range(6))  # the others are for testing
        return np.concatenate([frames[15 * index : 15 * index + 15] for index in indices]).reshape(-1, 2, 3)

    mean, axes = principal_components(gather, range(6), 2)
    theirs = PCA(2).fit(frames)
    np.testing.assert_allclose(np.abs((frames - mean) @ axes), np.abs(theirs.transform(frames)), atol=1e-4)
    with pytest.raises(SettingsError, match="no 7 principal"):
        principal_components(gather, range(6), 7)


def test_the_dimensions_kept_are_those_that_held_out_speakers_are_recognised_by():
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=300)
    means = rng.standard_normal((300, 8))
    means[:, 5] += 2 * targets  # true of everybody
    means[:, 1] += np.where(np.arange(300) < 200, 3 * (targets == 1), 0)  # of training speakers alone
    means[:, 6] += 2 * (targets == 0)
    train, held_out = range(200), range(200, 300)

    def gather(indices):  # three frames each, about their mean
        return np.concatenate([means[index] + np.array([[-1], [0], [1]]) for index in indices]).reshape(-1, 2, 4)

    mean, axes = useful_dimensions(gather, targets, train, held_out, 2)
    np.testing.assert_array_equal(np.argwhere(axes.T), [[0, 5], [1, 6]])
    assert not mean.any()
    assert 1 in np.flatnonzero(useful_dimensions(gather, targets, train, train, 3)[1].sum(axis=1))
    with pytest.raises(SettingsError, match="do not have 9"):
        useful_dimensions(gather, targets, train, held_out, 9)


def test_bad_files_do_not_stop_the_rest_and_are_all_reported(clips, cache, text, tmp_path):
    missing = tmp_path / "missing.wav"
    features = extract([clips[0], text, clips[1], missing, tmp_path], FakeEncoder(), cache)
    assert features.usable.tolist() == [True, False, True, False, False]
    assert features.lengths[1] == 0
    assert {path for path, message in features.failed if message} == {text, missing, tmp_path}
    for some, name in (([1], "text"), ([0, 3], "missing")):
        with pytest.raises(CacheError, match=rf"{name}\.wav"):
            features.gather(some)
    with pytest.raises(CacheError, match=r"text\.wav"):
        features[1]
    assert_right(features.select([2, 0]), [clips[1], clips[0]])
    usable, features, left_out = usable_features(corpus_of([text, *clips]), FakeEncoder(), cache.folder)
    assert [utterance.path for utterance in usable.utterances] == clips
    assert [path for path, _ in left_out] == [text]
    assert_right(features, clips)
    with pytest.raises(CorpusError, match=r"text\.wav"):
        usable_features(corpus_of([text]), FakeEncoder(), cache)


@pytest.mark.parametrize("bad", [np.nan, 1e6])
def test_frames_that_half_precision_cannot_hold_are_reported_and_not_kept(clips, cache, bad):
    encoder = FakeEncoder()
    encoder._frames = lambda samples: np.full((5, 8), bad, dtype=np.float32)
    assert not extract(clips[:2], encoder, cache).usable.any()
    assert not files_of(cache)


def test_progress_counts_what_was_there_before(clips, cache):
    extract(clips[:5], FakeEncoder(), cache)
    seen: list[tuple[int, int]] = []
    extract(clips, FakeEncoder(), cache, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(5, 13)]


def test_an_interruption_keeps_what_was_computed(clips, cache):
    class Interrupted(FakeEncoder):
        def __call__(self, utterances):
            if self.n_encoded == 4:
                raise KeyboardInterrupt
            return super().__call__(utterances)

    with pytest.raises(KeyboardInterrupt):
        extract(clips, Interrupted(), cache)
    assert_computes(len(clips) - 4, clips, cache)


def flipped(place: float, content: bytes) -> bytes:
    at = int(place * len(content)) if isinstance(place, float) else place
    return content[:at] + bytes([content[at] ^ 4]) + content[at:][1:]


def shortened(keep: float, content: bytes) -> bytes:
    return content[: int(keep * len(content)) if isinstance(keep, float) else keep]


@pytest.mark.parametrize(
    ("damaged", "where"),
    [*((flipped, place) for place in (0, 9, 20, 60, 0.5, -1)),
     *((shortened, keep) for keep in (0, 30, 200, 0.5, 0.999))],
)  # fmt: skip
def test_a_damaged_file_is_noticed_and_the_clips_are_computed_again(clips, cache, damaged, where):
    extract(clips, FakeEncoder(), cache)
    (path,) = files_of(cache)
    damage(path, damaged(where, path.read_bytes()))
    assert_computes(len(clips), clips, cache)
    assert path not in files_of(cache)


def test_frames_that_a_header_gives_to_another_utterance_are_noticed(clips, cache):
    pair = [clips[0], clips[5]]  # of equal length
    extract(pair, FakeEncoder(), cache)
    (path,) = files_of(cache)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    first, second = (name.encode() for name in sorted(header.keys() - {"__metadata__"}))
    swapped = content.replace(first, b"?" * 64).replace(second, first).replace(b"?" * 64, second)
    damage(path, swapped)
    assert_computes(2, pair, cache)


def test_only_the_clips_of_a_lost_file_are_computed_again(clips, cache, small_files):
    extract(clips, FakeEncoder(), cache)
    lost = files_of(cache)[0]
    with safe_open(lost, "np") as content:
        n_lost = len(content.keys())
    lost.unlink()
    assert n_lost < len(clips)
    assert_computes(n_lost, clips, cache)


def test_files_of_something_else_in_the_cache_do_no_harm(clips, cache, caplog):
    extract(clips, FakeEncoder(), cache)
    folder = files_of(cache)[0].parent
    (folder / "huge.safetensors").write_bytes(b"\xff" * 40)
    save_file({"weights": np.ones((3, 4), np.float32)}, folder / "model.safetensors")
    assert extract(clips, FakeEncoder(), cache).n_computed == 0
    assert sum("cannot be used" in line for line in caplog.messages) == 2


def test_a_file_is_read_for_its_checksum_when_it_is_new_or_changed_and_not_at_each_start(clips, cache, monkeypatch):
    verified, index = [], cache_module.contents_of
    watched = lambda path, verify: verified.append(verify) or index(path, verify)  # noqa: E731
    monkeypatch.setattr(cache_module, "contents_of", watched)
    extract(clips, FakeEncoder(), cache)
    extract(clips, FakeEncoder(), cache)
    assert not any(verified)
    (path,) = files_of(cache)
    os.utime(path, ns=(1, 1))  # as a copy from elsewhere
    for expected in (True, False):
        assert extract(clips, FakeEncoder(), cache).n_computed == 0
        assert verified[-1] is expected


def test_what_cannot_be_written_is_a_message_that_leaves_no_half_written_file(clips, cache, tmp_path, text):
    full = OSError(errno.ENOSPC, "No space left on device")
    with patch("ser.features.cache.os.fsync", side_effect=full), pytest.raises(CacheError, match="No space left"):
        extract(clips, FakeEncoder(), cache)
    assert not [path for path in cache.folder.rglob("*") if path.suffix in (".safetensors", ".tmp")]
    assert_computes(len(clips), clips, cache)
    with pytest.raises(CacheError, match="--cache"):
        extract(clips, FakeEncoder(), FeatureCache(text))
    run = child(tmp_path / "limited", clips, limit=LIMIT_BYTES)
    assert run.wait(WAIT_S) == 3
    assert "cannot be written" in run.communicate()[0]


@pytest.mark.slow
def test_two_processes_at_once_end_with_right_features(clips, cache):
    runs = [child(cache.folder, clips, delay_s=0.005) for _ in range(2)]
    assert [run.wait(WAIT_S) for run in runs] == [0, 0]
    assert_computes(0, clips, cache)


@pytest.mark.slow
def test_a_killed_process_loses_only_what_it_had_not_written(tmp_path, cache):
    clips = write_clips(tmp_path / "many", 60)
    for n_shards in (1, 5):
        run = child(cache.folder, clips, delay_s=0.01)
        wait_for(lambda wanted=n_shards: len(files_of(cache)) >= wanted)
        run.send_signal(signal.SIGKILL)
        run.wait(WAIT_S)
    encoder = FakeEncoder()
    assert_right(extract(clips, encoder, cache), clips)
    assert 0 < encoder.n_encoded < len(clips)


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_used(clips, cache):
    run = child(cache.folder, clips, hang_in_write=True)
    unfinished_name = f".{'?' * 32}.tmp"  # and no other file on its way
    wait_for(lambda: list(cache.folder.rglob(unfinished_name)))
    run.send_signal(signal.SIGKILL)
    run.wait(WAIT_S)
    (unfinished,) = cache.folder.rglob(unfinished_name)
    assert not files_of(cache)
    assert_computes(len(clips), clips, cache)
    os.utime(unfinished, (0, 0))  # an hour later it is taken away
    extract(write_clips(clips[0].parent / "more", 1, 0.4), FakeEncoder(), cache)
    assert not unfinished.exists()


def test_the_folder_comes_from_the_argument_else_the_environment_else_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "set"))
    assert FeatureCache(tmp_path / "given").folder == tmp_path / "given"
    assert FeatureCache().folder == tmp_path / "set"
    monkeypatch.delenv("SER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FeatureCache().folder == tmp_path / ".cache" / "persian-ser"

    def no_home(_: str) -> str:
        return "~"  # what Python says of a user whom the machine does not know

    monkeypatch.setattr(os.path, "expanduser", no_home)
    with pytest.raises(CacheError, match=r"no home folder to cache in\. Set SER_CACHE"):
        FeatureCache()


def test_the_cache_command_shows_and_clears_its_own_files_only(clips, cache, capsys):
    features = extract(clips, FakeEncoder(), cache)
    foreign = [files_of(cache)[0].parent / "notes.txt", cache.folder / "top.txt"]
    for path in foreign:
        path.write_text("mine")
    assert main(["cache", "--cache", str(cache.folder)]) == 0
    assert re.search("fake.*12 clips", capsys.readouterr().out)
    assert main(["cache", "--cache", str(cache.folder), "--clear"]) == 0
    assert files_of(cache) == []
    assert all(path.exists() for path in foreign)
    foreign[0].unlink()
    cache.clear()
    assert cache.contents() == []
    with pytest.raises(CacheError, match="cleared"):
        features.gather([0])
    assert main(["cache", "--cache", str(cache.folder / "nowhere")]) == 0


def test_the_extract_command_counts_and_names_bad_files(clips, cache, capsys, monkeypatch, text):
    monkeypatch.setattr("ser.cli.extract.read_corpus_arguments", lambda args: corpus_of([*clips, text]))
    monkeypatch.setattr("ser.cli.extract.load_encoder", lambda source, layer: (FakeEncoder(), None))
    assert main(["extract", "--corpus", "anywhere", "--cache", str(cache.folder)]) == 1
    shown = capsys.readouterr()
    assert "13 clips: 12 computed, 1 failed" in shown.out
    assert "text.wav" in shown.err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    peaks = []
    for name, n in (("small", 60), ("large", 600)):
        clips = write_clips(tmp_path / name, n)
        run = child(tmp_path / f"cache-{name}", clips, dim=768, n_frames=600, file_bytes=64 << 20)
        assert run.wait(300) == 0
        peaks.append(int(run.communicate()[0].split()[-1]))
    assert peaks[1] - peaks[0] < 100 << 10  # KiB; the features grew by 500 MB


def wait_for(condition, timeout_s: float = WAIT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def child(folder: Path, clips: list[Path], **options) -> subprocess.Popen[str]:
    """This file as a program: extract `clips` into the cache `folder`, see `extract_as_a_program`."""
    command = [sys.executable, __file__, repr(options), str(folder), *map(str, clips)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def extract_as_a_program(folder, clips, delay_s=0.0, dim=8, n_frames=0, file_bytes=500, limit=0, hang_in_write=False):
    cache_module.FILE_BYTES = file_bytes
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        cache_module.FILE_BYTES = 1 << 30
    if hang_in_write:
        os.fsync = lambda descriptor: time.sleep(600)
    try:
        features = extract(clips, FakeEncoder(dim, delay_s, n_frames), FeatureCache(folder))
    except CacheError as error:
        print(error)
        return 3
    for _ in range(2):
        for start in range(0, len(features), 16):
            features.gather(range(start, min(start + 16, len(features))), max_frames=300)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return 0


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


if __name__ == "__main__":
    import ast

    sys.exit(extract_as_a_program(sys.argv[2], sys.argv[3:], **ast.literal_eval(sys.argv[1])))


def test_clips_encoded_side_by_side_have_the_frames_that_each_has_alone(
    tmp_path, tiny_encoder, text, cache, three_threads
):
    clips = [write_voice(tmp_path / f"{n}.wav", 0.3 + 0.1 * (n % 5), seed=n) for n in range(12)]
    encoder, seen = Encoder.load(tiny_encoder), []
    features = extract([*clips, text], encoder, cache, lambda done, total: seen.append(done))
    assert seen == list(range(len(clips) + 2))
    assert [path for path, _ in features.failed] == [text]
    for index, clip in enumerate(clips):
        np.testing.assert_allclose(features[index], encoder([load_audio(clip)])[0], atol=2e-3)


def test_an_interruption_among_clips_side_by_side_keeps_what_was_computed(tmp_path, tiny_encoder, cache, three_threads):
    clips = [write_voice(tmp_path / f"{n}.wav", 0.3, seed=n) for n in range(20)]
    encoder = Encoder.load(tiny_encoder)

    def interrupt(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(clips, encoder, cache, interrupt)
    assert extract(clips, encoder, cache).n_computed == 12
