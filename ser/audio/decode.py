"""From a recording's file to its samples at their own rate, without trusting what the file says of itself.

In: a path. Out: mono float32 samples and their rate. libsndfile decodes WAV, FLAC, OGG, Opus, MP3 and AIFF;
ffmpeg, where it is installed, M4A, WebM, AAC, AMR and WMA. Memory follows the sound, never a header.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.errors import AudioError

MAX_DURATION_S = 600.0
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 192_000
MAX_CHANNELS = 64
BLOCK_SAMPLES = 1 << 20  # decoded at a time, over all channels
LEAST_FRAMES = 1 << 14
FFMPEG_TIMEOUT_S = 120

# First bytes (offset, magic) of containers that libsndfile cannot read -> the demuxer that ffmpeg is held to,
# so that a playlist or any other indirection in disguise is never followed.
FFMPEG_CONTAINERS: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"ftyp", "mov", "M4A/MP4"),
    (0, b"\x1aE\xdf\xa3", "matroska", "WebM/Matroska"),
    (0, b"\xff\xf1", "aac", "AAC"),
    (0, b"\xff\xf9", "aac", "AAC"),
    (0, b"#!AMR", "amr", "AMR"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "asf", "WMA"),
)

# What libsndfile logs of a chunk that ends too soon, and ffmpeg of a file.
SHORT_CHUNK = re.compile(r"^ *(?:data|SSND|Data Size|riff) *: *(\d+) \(should be (\d+)\)", re.MULTILINE)
FFMPEG_CUT = (b"ended prematurely", b"partial file")
# A length of 0 or of about 2 GiB and more is what a recorder writes that cannot seek back: not a promise.
NO_PROMISE_BYTES = (1 << 31) - (1 << 16)
NO_PROMISE_FRAMES = 1 << 62
OGG_PAGE_BYTES = 65_307  # at most
UNRECOGNISED = 1  # libsndfile's error code for a file that is no recording

Samples = NDArray[np.float32]


class SoundFile(soundfile.SoundFile):
    """Read from front to back only: soundfile otherwise seeks after every block, which fails at the end of a
    FLAC of unknown length (what ffmpeg writes into a pipe)."""

    def seekable(self) -> bool:
        return False


def read_audio(path: str | Path, max_duration_s: float = MAX_DURATION_S) -> tuple[Samples, int]:
    """Decode a recording at its own rate, channels averaged: `((samples,) float32, rate in Hz)`.

    Raises:
        AudioError: the file is missing, not audio, empty, damaged or longer than `max_duration_s`.
    """
    path = Path(path)
    container = _ffmpeg_container(path)
    if container is not None:
        return _read_with_ffmpeg(path, *container, max_duration_s)
    with path.open("rb") as file:
        return _decode(file, path.name, max_duration_s)


def read_blocks(path: str | Path, block_s: float) -> Iterator[tuple[Samples, int]]:
    """Decode a recording of any length piece by piece: `((samples,) float32, rate in Hz)`.

    Pieces are `block_s` long at most.

    Raises:
        AudioError: the file cannot be opened as audio; damage further on ends the pieces instead.
    """
    path = Path(path)
    if _ffmpeg_container(path) is not None:  # these are decoded whole
        samples, rate_hz = read_audio(path)
        step = int(block_s * rate_hz)
        for start in range(0, samples.size, step):
            yield samples[start : start + step], rate_hz
        return
    with (
        path.open("rb") as file,
        _sound_file(file, path.name) as sound,
        contextlib.suppress(soundfile.LibsndfileError),
    ):
        for block in _mono_blocks(sound, int(block_s * sound.samplerate)):
            yield block, sound.samplerate


def check_rate(rate_hz: float, name: str) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"{name} has a sample rate of {rate_hz} Hz; {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz are read.",
            "unreadable",
        )


def _ffmpeg_container(path: Path) -> tuple[str, str] | None:
    """The demuxer and name of what ffmpeg must read; None for what libsndfile reads.

    libsndfile takes the length of an MP3 without a length tag from its first frame, and would leave out the
    rest of one whose bit rate varies: ffmpeg reads those whole, where it is installed.
    """
    head = _first_bytes(path)
    for offset, magic, demuxer, name in FFMPEG_CONTAINERS:
        if head[offset : offset + len(magic)] == magic:
            return demuxer, name
    if _is_untagged_mp3(path, head) and shutil.which("ffmpeg"):
        return "mp3", "MP3"
    return None


def _is_untagged_mp3(path: Path, head: bytes) -> bool:
    if head[:3] == b"ID3":
        id3_bytes = 10 + sum(
            (byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False)
        )
        with path.open("rb") as file:
            file.seek(id3_bytes)
            head = file.read(64)
    is_layer_3 = head[:1] == b"\xff" and (head[1:2] or b"\0")[0] & 0xE6 == 0xE2
    return is_layer_3 and not any(tag in head for tag in (b"Xing", b"Info", b"VBRI"))


def _first_bytes(path: Path) -> bytes:
    try:
        if not path.exists():
            raise AudioError(f"There is no file {path}. Check the path.", "missing")
        if not path.is_file():
            raise AudioError(f"{path} is not a file. Give the path of one recording.", "missing")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise AudioError(f"{path} cannot be opened: {error.strerror}. Check path and permissions.") from error
    if not head:
        raise AudioError(f"{path.name} is empty (0 bytes). Save or upload it again.", "empty")
    return head


@contextlib.contextmanager
def _sound_file(file: IO[bytes], name: str) -> Iterator[SoundFile]:
    """The recording opened by libsndfile, its header checked; what goes wrong inside becomes an `AudioError`."""
    try:
        # By its descriptor: soundfile takes any name that ends in .raw for samples without a header.
        with SoundFile(file.fileno(), closefd=False) as sound:
            check_rate(sound.samplerate, name)
            if sound.channels > MAX_CHANNELS:
                raise AudioError(f"{name} claims {sound.channels} channels; at most {MAX_CHANNELS} are read.")
            yield sound
    except soundfile.LibsndfileError as error:
        if error.code == UNRECOGNISED:
            raise AudioError(
                f"{name} is not a recording in a known format. WAV, FLAC, OGG, Opus, MP3 and AIFF work; "
                "convert other formats first.",
                "not_audio",
            ) from error
        raise AudioError(f"{name} is damaged or not audio. Export it again.", "not_audio") from error
    except (RuntimeError, ValueError, TypeError, MemoryError, OSError) as error:
        raise AudioError(f"{name} is damaged and cannot be decoded ({error}). Export it again.") from error


def _mono_blocks(sound: SoundFile, frames: int) -> Iterator[Samples]:
    """Channels averaged, `frames` at a time or as many as fit into `BLOCK_SAMPLES`."""
    # A short recording by its header gets no room for a long one: it is new memory each time.
    frames = min(frames, max(sound.frames + 1, LEAST_FRAMES))
    frames = max(1, min(frames, BLOCK_SAMPLES // sound.channels))
    while len(block := sound.read(frames, dtype="float32", always_2d=True)):
        with np.errstate(over="ignore", invalid="ignore"):
            yield block[:, 0] if sound.channels == 1 else block.mean(axis=1)


def _decode(file: IO[bytes], name: str, max_duration_s: float) -> tuple[Samples, int]:
    with _sound_file(file, name) as sound:
        rate_hz, limit = sound.samplerate, int(max_duration_s * sound.samplerate)
        if limit < sound.frames < NO_PROMISE_FRAMES:
            raise AudioError(
                f"{name} lasts {sound.frames / rate_hz:.0f} s by its header; the limit is "
                f"{max_duration_s:.0f} s. Cut it into shorter pieces.",
                "too_long",
            )
        blocks: list[Samples] = []
        n_read = 0
        try:
            for block in _mono_blocks(sound, BLOCK_SAMPLES):
                blocks.append(block)
                n_read += len(block)
                if n_read > limit:
                    raise AudioError(
                        f"{name} lasts more than {max_duration_s:.0f} s. Cut it into shorter pieces.",
                        "too_long",
                    )
        except soundfile.LibsndfileError as error:
            raise _truncated(name) from error
        if _falls_short(sound, n_read) or (sound.format == "OGG" and _ogg_is_cut(file)):
            raise _truncated(name)
    if not blocks:
        raise AudioError(f"{name} holds no sound at all. Record again, or choose another file.", "empty")
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), rate_hz


def _falls_short(sound: SoundFile, n_read: int) -> bool:
    """True where fewer frames came than the file promised, by its frame count or by libsndfile's log."""
    expected = 0 if sound.frames >= NO_PROMISE_FRAMES else sound.frames
    if sound.format == "MP3":  # its frame count can be an estimate
        expected = int(0.95 * expected)
    promises = [(int(claimed), int(found)) for claimed, found in SHORT_CHUNK.findall(sound.extra_info)]
    return n_read < expected or any(found < claimed < NO_PROMISE_BYTES for claimed, found in promises)


def _ogg_is_cut(file: IO[bytes]) -> bool:
    """True where the last page is shorter than its own table of segments says (RFC 3533, section 6)."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(page) < 27 + len(segments) + sum(segments) or not segments


def _truncated(name: str) -> AudioError:
    return AudioError(
        f"{name} ends before its header says: part of it is missing. Copy or upload it again.", "truncated"
    )


def _read_with_ffmpeg(path: Path, demuxer: str, container: str, max_duration_s: float) -> tuple[Samples, int]:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise AudioError(
            f"{path.name} is {container}, which needs ffmpeg, and ffmpeg is not installed here. "
            "Install ffmpeg, or convert the file to WAV, FLAC, OGG or MP3.",
            "no_ffmpeg",
        )
    with tempfile.NamedTemporaryFile(suffix=".wav", prefix="ser-") as decoded:
        command = [ffmpeg, "-nostdin", "-v", "error", "-y", "-protocol_whitelist", "file", "-f", demuxer]
        command += ["-i", f"file:{path.resolve()}", "-vn", "-sn", "-dn", "-map", "0:a:0", "-ac", "1"]
        command += ["-t", str(max_duration_s + 1), "-c:a", "pcm_s16le", "-f", "wav", f"file:{decoded.name}"]
        try:
            result = subprocess.run(command, capture_output=True, timeout=FFMPEG_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise AudioError(
                f"{path.name} took ffmpeg over {FFMPEG_TIMEOUT_S} s; convert it first."
            ) from error
        if any(remark in result.stderr for remark in FFMPEG_CUT):
            raise _truncated(path.name)
        if result.returncode != 0:
            lines = result.stderr.decode(errors="replace").strip().splitlines()
            reason = lines[-1].removeprefix(f"file:{path.resolve()}: ") if lines else "no reason given"
            raise AudioError(
                f"{path.name} looks like {container} but ffmpeg cannot decode it ({reason[:200]})."
            )
        return _decode(decoded.file, path.name, max_duration_s)
