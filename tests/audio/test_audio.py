"""Any file that a person might drop becomes mono 16 kHz samples, or one `AudioError` that says why not."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly
from support import RATE_HZ, ROOT, encode, voice, write_voice

from ser.audio.decode import read_audio
from ser.audio.find import find_recordings
from ser.audio.load import load_audio, prepare, stream_audio
from ser.audio.resample import KAISER_BETA, LOWPASS_WIDTH, NOTHING, ROLLOFF, Resampler, resample
from ser.errors import AudioError
from ser.runtime import import_torchaudio

MEMORY_BYTES = 768 << 20  # of address space: numpy and libsndfile alone take a part of it


def kind_of(path: Path, **options: float) -> str:
    """The kind of the error that loading raises; its message must be one short line."""
    with pytest.raises(AudioError) as caught:
        load_audio(path, **options)
    assert 10 < len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    return caught.value.kind


def level_db(samples: np.ndarray, edge: int = 2_000) -> float:
    """Level against a sine of full scale, without the ends."""
    return float(20 * np.log10(np.sqrt(2 * np.mean(samples[edge:-edge] ** 2)) + 1e-12))


def tone(frequency_hz: float, rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(round(rate_hz * seconds)) / rate_hz).astype(np.float32)


def wav(
    data: bytes, claimed: int | None = None, channels: int = 1, rate_hz: int = RATE_HZ, bits: int = 16,
    chunks: bytes = b"",
) -> bytes:  # fmt: skip
    """A WAV file whose header may lie."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    size = len(data) if claimed is None else claimed
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + chunks + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(len(body) - len(data) + size, 0xFFFFFFFF)) + body


PCM = (voice(0.5) * 32767).astype("<i2").tobytes()

# ---- formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("wav", {"subtype": "PCM_U8"}, 0.01),
        ("wav", {"subtype": "PCM_16"}, 1e-4),
        ("wav", {"subtype": "PCM_24"}, 1e-5),
        ("wav", {"subtype": "PCM_32"}, 1e-5),
        ("wav", {"subtype": "FLOAT"}, 1e-6),
        ("wav", {"subtype": "DOUBLE"}, 1e-6),
        ("wav", {"subtype": "ULAW"}, 0.03),
        ("flac", {}, 1e-4),
        ("aiff", {}, 1e-4),
        ("caf", {}, 1e-4),
        ("ogg", {}, 0.15),
        ("opus", {"format": "OGG", "subtype": "OPUS"}, None),
        ("mp3", {}, None),
    ],
)
def test_every_format_that_libsndfile_reads_gives_the_same_sound(tmp_path, suffix, options, tolerance):
    samples = load_audio(write_voice(tmp_path / f"clip.{suffix}", **options))
    assert samples.dtype == np.float32
    assert samples.shape == (RATE_HZ,)
    if tolerance is None:  # a lossy format may shift by some samples: compare the levels
        assert level_db(samples) == pytest.approx(level_db(voice()), abs=0.5)
    else:
        np.testing.assert_allclose(samples, voice(), atol=tolerance)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.m4a", "aac", {}),
        ("clip.mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
        ("clip.aac", "aac", {"format": "adts"}),
        ("clip.webm", "libopus", {"rate_hz": 48_000}),
        ("clip.wma", "wmav2", {"format": "asf"}),
        ("clip.amr", "libopencore_amrnb", {"format": "amr", "rate_hz": 8_000, "bit_rate": 12_200}),
        ("clip.3gp", "libopencore_amrnb", {"rate_hz": 8_000, "bit_rate": 12_200}),
        ("call.wav", "g726", {"rate_hz": 8_000, "bit_rate": 32_000}),
        ("clip.mp3", "libmp3lame", {"write_xing": "0"}),
        ("mp3 in a.wav", "libmp3lame", {}),
    ],
)
def test_formats_of_phones_browsers_and_call_recorders_are_read_whole(tmp_path, name, codec, options):
    samples = load_audio(encode(tmp_path / name, codec, **options))
    assert samples.size / RATE_HZ == pytest.approx(2.0, abs=0.15)
    assert level_db(samples) == pytest.approx(level_db(voice(2.0)), abs=1.0)


@pytest.mark.parametrize("kind", ["vorbis", "opus", "flac", "mp3", "mp3 without a tag"])
def test_recordings_that_were_joined_as_files_are_heard_to_their_end(tmp_path, kind):
    parts = []
    for number, sound in enumerate((0.01 * voice(2.0), voice(1.5, seed=1))):
        path = tmp_path / f"part{number}"
        if kind.startswith("mp3"):
            options = {"write_xing": "0", "bit_rate": (128_000, 32_000)[number]} if "without" in kind else {}
            encode(path, "libmp3lame", sound, format="mp3", **options)
        else:
            form = {"format": "FLAC"} if kind == "flac" else {"format": "OGG", "subtype": kind.upper()}
            soundfile.write(path, sound, RATE_HZ, **form)
        parts.append(path.read_bytes())
    (tmp_path / "joined").write_bytes(b"".join(parts))
    samples = load_audio(tmp_path / "joined")
    assert samples.size / RATE_HZ == pytest.approx(3.5, abs=0.2)
    assert level_db(samples[: 2 * RATE_HZ]) < level_db(voice(2.0)) - 20
    assert level_db(samples[-RATE_HZ:]) == pytest.approx(level_db(voice(1.5, seed=1)[-RATE_HZ:]), abs=1.5)


def test_joined_wav_files_are_refused_and_not_heard_in_part(tmp_path):
    (tmp_path / "two.wav").write_bytes(wav(PCM) + wav(PCM))
    with pytest.raises(AudioError, match="several WAV files"):
        load_audio(tmp_path / "two.wav")


@pytest.mark.parametrize("claimed", [0, *(len(PCM) + more for more in (1, 2, 8, 36, 44, 100))])
def test_a_header_that_was_never_completed_or_counts_itself_costs_no_sound(tmp_path, claimed):
    (tmp_path / "clip.wav").write_bytes(wav(PCM, claimed=claimed))
    np.testing.assert_allclose(load_audio(tmp_path / "clip.wav"), voice(0.5), atol=1e-4)


@pytest.mark.parametrize("front", [bytes(3_000), b"ID3\x04\0\0\0\0\0\x10" + bytes(16), b"stream " * 300])
def test_what_stands_in_front_of_an_mp3_or_an_aac_does_not_hide_it(tmp_path, front):
    for codec, form in (("libmp3lame", "mp3"), ("aac", "adts")):
        path = encode(tmp_path / form, codec, format=form)
        path.write_bytes(front + path.read_bytes())
        assert load_audio(path).size / RATE_HZ == pytest.approx(2.0, abs=0.2)


def test_the_name_of_a_file_does_not_matter(tmp_path):
    for name in ("clip.raw", "clip.txt", "clip", "سلام.mp3"):
        np.testing.assert_allclose(load_audio(write_voice(tmp_path / name, format="WAV")), voice(), atol=1e-4)


def test_channels_are_averaged(tmp_path):
    left, right = voice(seed=0), voice(seed=1)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "stereo.wav"), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("balance", [1.0, 0.999, 0.5])
def test_channels_that_cancel_each_other_leave_the_louder_one(tmp_path, balance):
    both = np.stack([voice(), -balance * voice()], axis=1)
    soundfile.write(tmp_path / "opposite.wav", both, RATE_HZ, subtype="FLOAT")
    expected = voice() if balance > 0.9 else 0.25 * voice()  # half out of phase is quieter and still an average
    np.testing.assert_allclose(load_audio(tmp_path / "opposite.wav"), expected, atol=1e-6)
    np.testing.assert_allclose(prepare(both, RATE_HZ), expected, atol=1e-6)


def test_channels_that_cancel_each_other_but_for_their_codec_leave_the_voice(tmp_path):
    path = encode(tmp_path / "opposite.m4a", "aac", np.stack([voice(2.0), -voice(2.0)], axis=1))
    assert level_db(load_audio(path)) == pytest.approx(level_db(voice(2.0)), abs=1.0)


def test_samples_of_any_type_mean_the_same():
    reference = voice()
    for dtype in (np.int8, np.int16, np.int32, np.int64, np.uint8):
        limits = np.iinfo(dtype)
        middle = (float(limits.max) + float(limits.min) + 1) / 2
        samples = (reference.astype(np.float64) * (limits.max - middle) * 0.999 + middle).astype(dtype)
        np.testing.assert_allclose(prepare(samples, RATE_HZ), reference * 0.999, atol=0.02)
    for dtype in (np.float16, np.float64):
        np.testing.assert_allclose(prepare(reference.astype(dtype), RATE_HZ), reference, atol=1e-3)


# ---- resampling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 44_101, 48_000, 96_000, 191_999, 192_000])
def test_a_tone_of_1_khz_keeps_its_level_and_the_clip_its_length_at_any_rate(rate_hz):
    samples = resample(tone(1_000, rate_hz), rate_hz, RATE_HZ)
    assert abs(samples.size - RATE_HZ) <= 1
    assert level_db(samples) == pytest.approx(0.0, abs=0.1)
    if rate_hz % 25 == 0:  # an odd rate is taken for a close one: over a second its phase drifts
        expected = tone(1_000, RATE_HZ)[2_000 : samples.size - 2_000]
        np.testing.assert_allclose(samples[2_000:-2_000], expected, atol=0.001)


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
@pytest.mark.parametrize("frequency_hz", [9_000, 10_500, 12_000, 15_000, 17_500, 20_000])
def test_tones_above_8_khz_do_not_come_back_as_aliases(rate_hz, frequency_hz):
    sound = tone(frequency_hz, rate_hz)
    ours = level_db(resample(sound, rate_hz, RATE_HZ))
    assert ours < -60
    assert ours < level_db(resample_poly(sound, RATE_HZ, rate_hz)) + 1  # no worse than scipy's own filter


def test_speech_band_sounds_equal_those_of_scipy():
    sound = sum(tone(frequency, 44_100) for frequency in (200, 700, 1_500, 2_500)) / 5
    ours = resample(sound, 44_100, RATE_HZ)
    theirs = resample_poly(sound, 160, 441, window=("kaiser", 12.0))
    np.testing.assert_allclose(ours[500:-500], theirs[500:-500], atol=2e-3)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000, 44_101])
def test_a_recording_that_arrives_in_pieces_is_resampled_as_a_whole(rate_hz):
    sound, change = voice(2.0, rate_hz), Resampler(rate_hz, RATE_HZ)
    cuts = np.sort(np.random.default_rng(0).integers(0, sound.size, 20))
    pieces = [change(piece) for piece in np.split(sound, cuts)] + [change(NOTHING, is_last=True)]
    np.testing.assert_allclose(np.concatenate(pieces), resample(sound, rate_hz, RATE_HZ), atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000, 192_000])
def test_another_rate_sounds_as_by_torchaudio(rate_hz):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, rate_hz // 4).astype(np.float32)
    change = import_torchaudio().transforms.Resample(
        rate_hz, RATE_HZ, "sinc_interp_kaiser", LOWPASS_WIDTH, ROLLOFF, KAISER_BETA
    )
    expected = change(torch.from_numpy(sound)).numpy()
    np.testing.assert_allclose(resample(sound, rate_hz, RATE_HZ), expected, atol=2e-5)


def test_a_recording_of_any_rate_is_read_without_torch(tmp_path):
    path = write_voice(tmp_path / "clip.wav", rate_hz=44_100)
    program = "import sys; from ser.audio.load import load_audio; load_audio(sys.argv[1]); "
    program += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=True)


PEAK = """
import resource, sys
import soundfile
from ser.audio.load import load_audio
def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak_mb()
load_audio(sys.argv[1])
print(peak_mb() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux tells it")
def test_a_recording_takes_memory_for_its_sound_at_16_khz_and_little_more(tmp_path):
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 192_000, 1) as file:
        sound = voice(10.0, 192_000)
        for _ in range(59):
            file.write(sound)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "long.wav")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert float(done.stdout) < 150  # MB; its own samples take 453, those at 16 kHz 38


# ---- recordings that cannot be used -----------------------------------------------------------------------


def test_each_kind_of_unusable_recording_has_its_own_name(tmp_path):
    def clip(samples: np.ndarray) -> Path:
        soundfile.write(tmp_path / "clip.wav", samples, RATE_HZ, subtype="FLOAT")
        return tmp_path / "clip.wav"

    def file(content: bytes) -> Path:
        (tmp_path / "file.wav").write_bytes(content)
        return tmp_path / "file.wav"

    holes = voice()
    holes[100] = np.nan
    infinite = voice()
    infinite[100] = np.inf
    assert kind_of(tmp_path / "nothing.wav") == "missing"
    assert kind_of(tmp_path / ("x" * 300)) == "unreadable"
    assert kind_of(tmp_path) == "missing"
    assert kind_of(file(b"")) == "empty"
    assert kind_of(clip(np.zeros(0))) == "empty"
    assert kind_of(clip(np.zeros(RATE_HZ))) == "silent"
    assert kind_of(clip(np.full(RATE_HZ, 0.3))) == "silent"
    assert kind_of(clip(voice(0.09))) == "too_short"
    assert kind_of(clip(voice(3.0)), max_duration_s=2.0) == "too_long"
    assert kind_of(clip(holes)) == "nan"
    assert kind_of(clip(infinite)) == "nan"
    assert kind_of(file("این یک متن است\n".encode() * 50)) == "not_audio"
    assert kind_of(file(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))) == "not_audio"
    assert kind_of(file(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")) == "not_audio"
    assert kind_of(file(b"ffconcat version 1.0\nfile /etc/passwd\n")) == "not_audio"
    assert kind_of(file(wav(PCM, rate_hz=1_000))) == "unreadable"


def test_a_clip_of_just_a_tenth_of_a_second_is_accepted(tmp_path):
    assert load_audio(write_voice(tmp_path / "short.wav", 0.1)).size == 1_600


def test_a_file_that_may_not_be_opened_is_named_and_not_a_crash(tmp_path, monkeypatch):
    path = write_voice(tmp_path / "clip.wav")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match="Permission denied"):
        load_audio(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "ogg", "mp3", "webm", "m4a", "mp4"])
def test_a_recording_whose_end_is_missing_is_refused(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    if suffix == "webm":
        encode(path, "libopus", voice(8.0, 48_000), 48_000)
    elif suffix in ("m4a", "mp4"):  # the index before the sound, or behind it and so lost
        encode(path, "aac", voice(8.0), **({"movflags": "faststart"} if suffix == "m4a" else {}))
    else:
        write_voice(path, 8.0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert kind_of(path) == "truncated"


def test_a_codec_of_which_most_cannot_be_decoded_is_refused_and_not_heard_in_part(tmp_path):
    """AAC in a WAV, whose packets nobody can tell apart: a tenth of the sound comes out."""
    assert kind_of(encode(tmp_path / "aac in a.wav", "aac", voice(4.0))) == "unreadable"


def test_a_film_without_sound_says_so(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        frame = av.VideoFrame(16, 16, "yuv420p")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(AudioError, match="no sound at all"):
        load_audio(tmp_path / "film.mp4")


@pytest.mark.parametrize("suffix", ["wav", "aiff", "ogg", "mp3"])
def test_a_tag_after_the_sound_is_no_damage(tmp_path, suffix):
    path = write_voice(tmp_path / f"clip.{suffix}")
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    assert load_audio(path).size == RATE_HZ


# ---- samples beyond full scale ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.5, 100.0, 32_768.0, 2.0**31])
def test_float_samples_beyond_full_scale_are_scaled_down(tmp_path, scale):
    samples = voice() / np.abs(voice()).max()
    soundfile.write(tmp_path / "loud.wav", samples * scale, RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "loud.wav"), samples, atol=1e-5)


@pytest.mark.parametrize("peak", [1e10, 1e30, 3e38])
def test_one_absurd_sample_does_not_silence_the_rest_unnoticed(tmp_path, peak):
    samples = np.stack([voice(), voice()], axis=1)
    samples[500] = peak
    soundfile.write(tmp_path / "absurd.wav", samples, RATE_HZ, subtype="FLOAT")
    assert kind_of(tmp_path / "absurd.wav") in ("unreadable", "nan")


# ---- hostile headers --------------------------------------------------------------------------------------


def flac_claiming(total_samples: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        content = bytearray(write_voice(path, format="FLAC").read_bytes())
        content[21] = (content[21] & 0xF0) | (total_samples >> 32)  # 36 bits in the STREAMINFO block
        content[22:26] = struct.pack(">I", total_samples & 0xFFFFFFFF)
        path.write_bytes(bytes(content))

    return write


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a WAV claiming 4 GB": raw(wav(PCM, claimed=0xFFFFFFFF)),
    "a WAV claiming 3 GB": raw(wav(PCM, claimed=3 << 30)),
    "a WAV claiming 1 GB": raw(wav(PCM, claimed=1 << 30)),
    "a FLAC claiming 2^36 samples": flac_claiming((1 << 36) - 1),
    "a FLAC claiming ten minutes": flac_claiming(600 * RATE_HZ),
    "65,535 channels": raw(wav(PCM, channels=65_535)),
    "1,000 channels": raw(wav(PCM, channels=1_000)),
    "a rate of 2^31": raw(wav(PCM, rate_hz=(1 << 31) - 1)),
    "a rate of 767,123 Hz": raw(wav(PCM * 20, rate_hz=767_123)),
    "an odd rate with a huge resampling filter": raw(wav(PCM * 20, rate_hz=191_839)),
    "a chunk of 4 GB before the sound": raw(wav(PCM, chunks=b"LIST" + struct.pack("<I", 0xFFFFFFF0) + b"INFO")),
    "chunks of odd sizes": raw(wav(PCM, chunks=b"JUNK" + struct.pack("<I", 5) + b"12345" + b"abcd\xff\xff")),
    "bits that do not exist": raw(wav(PCM, bits=7)),
    "an ID3 tag of 256 MB": raw(b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + PCM),
    "an MP4 box of 2^64 bytes": raw(b"\0\0\0\x20ftypM4A " + bytes(16) + b"\0\0\0\1mdat" + b"\xff" * 8 + PCM),
}

LOAD = """
import json, resource, sys
import numpy, soundfile
from ser.audio.load import load_audio
from ser.errors import AudioError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
outcome = {}
for path in sys.argv[2:]:
    try:
        outcome[path] = len(load_audio(path))
    except AudioError as error:
        outcome[path] = error.kind
print(json.dumps(outcome))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_header_that_lies_takes_neither_memory_nor_the_process(tmp_path):
    paths = []
    for number, write in enumerate(HOSTILE.values()):
        paths.append(tmp_path / f"{number}.bin")
        write(paths[-1])
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(MEMORY_BYTES), *map(str, paths)],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    outcome = dict(zip(HOSTILE, json.loads(result.stdout).values(), strict=True))
    assert set(map(type, outcome.values())) <= {int, str}
    assert outcome["a WAV claiming 4 GB"] == 8_000  # what a recorder writes that cannot seek back
    assert outcome["a WAV claiming 1 GB"] == "truncated"
    assert outcome["a FLAC claiming 2^36 samples"] == "too_long"
    assert outcome["a FLAC claiming ten minutes"] == "truncated"
    assert outcome["1,000 channels"] == "unreadable"
    assert isinstance(outcome["an odd rate with a huge resampling filter"], int)


MAGIC = [
    b"RIFF\xff\xff\xff\xffWAVE", b"RF64\xff\xff\xff\xffWAVE", b"fLaC", b"OggS\0\2", b"ID3\4\0\0\0\0\x10\0",
    b"\xff\xfb\x90\0", b"FORM\0\x10\0\0AIFF", b".snd", b"caff\0\1\0\0", b"\0\0\0\x20ftypM4A ",
    b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11",
]  # fmt: skip


@pytest.mark.parametrize("magic", MAGIC, ids=[magic[:4].hex() for magic in MAGIC])
def test_random_bytes_behind_a_good_magic_are_an_error_with_a_sentence(tmp_path, magic):
    (tmp_path / "random").write_bytes(magic + np.random.default_rng(1).bytes(5_000))
    assert kind_of(tmp_path / "random") in ("not_audio", "unreadable", "truncated", "empty")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6))
def test_a_file_with_changed_bytes_is_read_or_refused_but_never_crashes(tmp_path_factory, suffix, changes):
    path = tmp_path_factory.mktemp("mutated") / f"clip.{suffix}"
    content = bytearray(write_voice(path, 0.3).read_bytes())
    for where, what in changes:
        start = int(where**3 * len(content))  # headers more often than sound
        content[start : start + len(what)] = what
    path.write_bytes(bytes(content))
    try:
        samples = load_audio(path)
    except AudioError:
        return
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1


CHILD = ROOT / "ser" / "audio" / "av_child.py"


def run_child(path: Path, before: str = "pass") -> tuple[dict[str, str], int]:
    """What the decoder's own process says of a file in the end, and the most memory it took, in bytes."""
    program = f"import sys; sys.path.insert(0, {str(CHILD.parent)!r}); import av_child; {before}; av_child.main()"
    with path.open("rb") as file:
        child = subprocess.Popen([sys.executable, "-c", program, "60"], stdin=file, stdout=subprocess.PIPE,
                                 cwd=path.parent)  # fmt: skip
        said = child.stdout.read()
        _, _, usage = os.wait4(child.pid, 0)
    return json.loads(said[said.rindex(b"{") :]), usage.ru_maxrss * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_small_file_that_claims_an_index_of_gigabytes_gets_no_memory_for_it(tmp_path):
    content = bytearray(encode(tmp_path / "bomb.m4a", "aac", voice(1.0)).read_bytes())
    n_samples = 80_000_000  # of one byte each, in one chunk, at 24 bytes of index a sample
    for box, values in ((b"stsz", (1, n_samples)), (b"stts", (1, n_samples, 1024)), (b"stsc", (1, 1, n_samples, 1))):
        at = content.index(box) + 8
        content[at : at + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
    (tmp_path / "bomb.m4a").write_bytes(content)
    said, peak_bytes = run_child(tmp_path / "bomb.m4a")
    assert said["kind"] in ("unreadable", "truncated")
    assert peak_bytes < 1 << 30
    assert kind_of(tmp_path / "bomb.m4a") in ("unreadable", "truncated")


@pytest.mark.skipif(sys.platform != "linux", reason="limits what may be opened as Linux does")
def test_a_playlist_is_no_recording_and_would_open_nothing_if_it_were_one(tmp_path):
    target, path = encode(tmp_path / "private.ts", "aac", format="mpegts"), tmp_path / "clip.m4a"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{target}\n#EXT-X-ENDLIST\n")
    as_playlist = "import functools, av; av_child.FORMATS += ',hls,concat,mpegts'; "
    as_playlist += "av.open = functools.partial(av.open, format={!r})"
    assert kind_of(path) == "not_audio"
    assert run_child(path, as_playlist.format("hls"))[0]["kind"]
    path.write_text(f"ffconcat version 1.0\nfile {target.name}\n")
    assert kind_of(path) == "not_audio"
    assert run_child(path, as_playlist.format("concat"))[0]["kind"]


# ---- folders ----------------------------------------------------------------------------------------------


def test_recordings_are_found_by_one_list_of_suffixes_through_links_and_without_hidden_files(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data / "deep" / "er", data / "__MACOSX", data / ".git", elsewhere):
        folder.mkdir(parents=True)
    right = ["a.WAV", "b.weba", "deep/er/c.amr", "deep/x.mp3"]
    for name in [*right, "._a.wav", ".hidden.wav", "notes.txt", "__MACOSX/a.wav", ".git/b.wav"]:
        (data / name).touch()
    (elsewhere / "linked.flac").touch()
    (data / "linked").symlink_to(elsewhere)
    (data / "deep" / "loop").symlink_to(data)
    for name in ("gone", "gone.wav"):
        (data / name).symlink_to(tmp_path / "nowhere")
    found = [str(path.relative_to(data)) for path in find_recordings(data)]
    assert found == sorted([*right, "gone", "gone.wav", "linked/linked.flac"])


# ---- reading piece by piece -------------------------------------------------------------------------------


def test_a_stream_gives_the_whole_recording_in_pieces_without_its_silence(tmp_path):
    sound = np.concatenate([voice(2.0), np.zeros(2 * RATE_HZ), voice(1.5)])
    soundfile.write(tmp_path / "long.wav", sound, RATE_HZ, subtype="FLOAT")
    pieces = list(stream_audio(tmp_path / "long.wav", block_s=1.0))
    assert [piece.size for piece in pieces] == [RATE_HZ] * 3 + [RATE_HZ // 2]
    np.testing.assert_allclose(np.concatenate(pieces[:2]), voice(2.0), atol=1e-6)


def test_a_stream_ends_at_damage_and_refuses_what_is_no_audio(tmp_path):
    path = write_voice(tmp_path / "cut.flac", 40.0)
    path.write_bytes(path.read_bytes()[:-20_000])
    assert 0 < sum(piece.size for piece in stream_audio(path, block_s=0.5)) < 40 * RATE_HZ
    path.write_bytes(wav(PCM, channels=1_000))
    with pytest.raises(AudioError):
        list(stream_audio(path, block_s=10.0))


def test_reading_keeps_the_recording_s_own_rate(tmp_path):
    samples, rate_hz = read_audio(write_voice(tmp_path / "clip.wav", 1.0, 44_100))
    assert (samples.shape, rate_hz) == ((44_100,), 44_100)


def test_a_rate_that_no_recorder_uses_and_shapes_that_are_no_recording_are_refused():
    for samples, rate_hz in [(voice(), 0), (voice(), 10**9), (voice().reshape(10, 10, -1), RATE_HZ)]:
        with pytest.raises(AudioError):
            prepare(samples, rate_hz)
    with pytest.raises(AudioError, match="samples, channels"):
        prepare(np.stack([voice(), voice()]), RATE_HZ)  # (channels, samples)
    with pytest.raises(AudioError, match="type"):
        prepare(np.array(["a"] * RATE_HZ), RATE_HZ)
