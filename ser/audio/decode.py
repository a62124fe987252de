"""From a recording's file to its samples at their own rate, without trusting what the file says of itself.

In: a path. Out: mono float32 samples and their rate, block by block: memory follows the sound, never a header.
libsndfile decodes what it knows (WAV, FLAC, OGG, Opus, MP3, AIFF and more). FFmpeg's libraries, in a process of their
own (`ser.audio.av_child` says why), decode what libsndfile does not know (M4A, WebM, AAC, AMR, WMA, Speex, G.726) and
that of which it may hear only a part: joined Ogg and FLAC, an MP3 longer than its tag says, a WAV whose header was
never completed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.errors import AudioError

MAX_DURATION_S = 600.0
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 192_000
MAX_CHANNELS = 64
BLOCK_SAMPLES = 1 << 18  # decoded at a time, over all channels
CANCELLED = 0.01  # power of the channels' average against the loudest: 20 dB below it, they cancel each other

# What libsndfile logs of a chunk that ends too soon, and by how much it may: recorders that add their header's size.
SHORT_CHUNK = re.compile(r"^ *(?:data|SSND|Data Size|riff) *: *(\d+) \(should be (\d+)\)", re.MULTILINE)
HARMLESS_BYTES = 100
# A length of about 2 GiB and more is what a recorder writes that cannot seek back: not a promise.
NO_PROMISE_BYTES = (1 << 31) - (1 << 16)
NO_PROMISE_FRAMES = 1 << 62
OGG_PAGE_BYTES = 65_307  # at most
MP3_TRAILER_BYTES = 4_096  # tags behind the sound; what goes beyond may be sound
# The 8 bytes with which a recording begins, here or further on in a file of several, by libsndfile's names.
BEGINNINGS = {"OGG": rb"OggS\0[\2\3\6\7]..", "FLAC": rb"fLaC\0\0\0\x22", "WAV": rb"WAVEfmt "}
AV_CPU_S, AV_CPU_SHARE = 30, 0.1  # limit of FFmpeg's processor time, and more for each second that is allowed
PROBLEMS = {
    "empty": "holds no sound at all. Record again, or choose another file.",
    "not_audio": "is not a recording in a known format. WAV, FLAC, OGG, Opus, MP3, M4A, WebM, AAC, AMR, WMA and AIFF "
    "work; convert other formats first.",
    "too_long": "lasts {detail} s. Cut it into shorter pieces.",
    "truncated": "ends before its header says: part of it is missing. Copy or upload it again.",
    "unreadable": "is damaged, or of a kind that is not read here ({detail}). Convert or export it to WAV.",
}

Samples = NDArray[np.float32]
Block = tuple[NDArray[np.float32], int]  # `(frames, channels)` and the rate in Hz


class SoundFile(soundfile.SoundFile):
    """Read from front to back only: soundfile otherwise seeks after every block, which fails at the end of a
    FLAC of unknown length (what ffmpeg writes into a pipe)."""

    def seekable(self) -> bool:
        return False


def read_audio(path: str | Path, max_duration_s: float = MAX_DURATION_S) -> tuple[Samples, int]:
    """Decode a recording at its own rate, whole: `((samples,) float32, rate in Hz)`.

    Raises:
        AudioError: as `read_blocks`.
    """
    blocks = list(read_blocks(path, max_duration_s))
    return np.concatenate([samples for samples, _ in blocks]), blocks[0][1]


def read_blocks(path: str | Path, max_duration_s: float = MAX_DURATION_S) -> Iterator[tuple[Samples, int]]:
    """Decode a recording block by block: mono `(samples,)` float32 and the rate in Hz, which never changes.

    Channels are averaged; where they cancel each other, the loudest one is taken.

    Raises:
        AudioError: the file is missing, not audio, empty, damaged or longer than `max_duration_s`; what is found to be
            damaged at its end was yielded before.
    """
    path, n_read = Path(path), 0
    with _opened(path) as file:
        for block, rate_hz in _decoded(file, path.name, max_duration_s):
            check_rate(rate_hz, path.name)
            n_read += len(block)
            if n_read > max_duration_s * rate_hz:
                raise problem(path.name, "too_long", f"more than {max_duration_s:.0f}")
            yield mono(block), rate_hz
    if not n_read:
        raise problem(path.name, "empty")


def mono(block: NDArray[np.float32]) -> Samples:
    """One channel `(frames,)` of `(frames, channels)`: the average, or the loudest one where they cancel each other."""
    if block.shape[1] == 1:
        return block[:, 0]
    with np.errstate(over="ignore", invalid="ignore"):
        average, power = block.mean(axis=1), block.var(axis=0)
        if average.var() < CANCELLED * power.max():
            return np.ascontiguousarray(block[:, power.argmax()])
    return average


def check_rate(rate_hz: float, name: str) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(f"{name} has a rate of {rate_hz} Hz; {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz are read.")


def problem(name: str, kind: str, detail: str = "") -> AudioError:
    return AudioError(f"{name} {PROBLEMS[kind].format(detail=detail)}", kind)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        if not path.is_file():
            reason = "is no file; give one recording" if path.exists() else "is not there; check the path"
            raise AudioError(f"{path} {reason}.", "missing")
        file = path.open("rb", buffering=0)  # both decoders share its descriptor and position
    except OSError as error:
        raise AudioError(f"{path} cannot be opened: {error.strerror}. Check path and permissions.") from error
    with file:
        if not os.fstat(file.fileno()).st_size:
            raise AudioError(f"{path.name} is empty (0 bytes). Save or upload it again.", "empty")
        try:
            yield file
        except (RuntimeError, ValueError, TypeError, MemoryError, OSError) as error:
            raise problem(path.name, "unreadable", str(error)) from error


def _decoded(file: IO[bytes], name: str, max_duration_s: float) -> Iterator[Block]:
    try:
        # By its descriptor: soundfile takes any name that ends in .raw for samples without a header.
        with SoundFile(file.fileno(), closefd=False) as sound:
            place = file.tell()
            may_hold_more = _may_hold_more(sound, file)
            file.seek(place)
            if not may_hold_more:
                yield from _by_libsndfile(sound, file, name, max_duration_s)
                return
    except soundfile.LibsndfileError as error:
        if _holds_several(file, "WAV"):
            raise problem(name, "unreadable", "several WAV files in one") from error
    yield from _by_ffmpeg(file, name, max_duration_s)


def _by_libsndfile(sound: SoundFile, file: IO[bytes], name: str, max_duration_s: float) -> Iterator[Block]:
    rate_hz = sound.samplerate
    if max_duration_s * rate_hz < sound.frames < NO_PROMISE_FRAMES:
        detail = f"{sound.frames / rate_hz:.0f} s by its header; the limit is {max_duration_s:.0f}"
        raise problem(name, "too_long", detail)
    if sound.channels > MAX_CHANNELS:
        raise problem(name, "unreadable", f"{sound.channels} channels; at most {MAX_CHANNELS} are read")
    n_read = 0
    try:
        while len(block := sound.read(BLOCK_SAMPLES // sound.channels, dtype="float32", always_2d=True)):
            n_read += len(block)
            yield block, rate_hz
    except soundfile.LibsndfileError as error:
        raise problem(name, "truncated") from error
    if _falls_short(sound, n_read) or (sound.format == "OGG" and _ogg_is_cut(file)):
        raise problem(name, "truncated")


def _falls_short(sound: SoundFile, n_read: int) -> bool:
    """True where fewer frames came than the file promised, by its frame count or by libsndfile's log."""
    expected = 0 if sound.frames >= NO_PROMISE_FRAMES else sound.frames
    if sound.subtype.startswith("MPEG"):  # its frame count can be an estimate
        expected = int(0.95 * expected)
    promises = ((int(claimed), int(found)) for claimed, found in SHORT_CHUNK.findall(sound.extra_info))
    return n_read < expected or any(found + HARMLESS_BYTES < claimed < NO_PROMISE_BYTES for claimed, found in promises)


def _ogg_is_cut(file: IO[bytes]) -> bool:
    """True where the last page is shorter than its own table of segments says (RFC 3533, section 6)."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(page) < 27 + len(segments) + sum(segments) or not segments


def _may_hold_more(sound: SoundFile, file: IO[bytes]) -> bool:
    """Whether the file may hold more than libsndfile hears."""
    if sound.format == "MP3":
        return not _tag_counts_all(file)
    if sound.format == "OGG":
        return _holds_several(file, "OGG")
    return sound.frames == 0 or (sound.format == "FLAC" and _holds_several(file, "FLAC"))


def _holds_several(file: IO[bytes], form: str) -> bool:
    n_found, tail = 0, b""
    file.seek(0)
    while chunk := file.read(1 << 20):
        n_found += len(re.findall(BEGINNINGS[form], tail + chunk, re.DOTALL))
        tail = chunk[-7:]  # too short to be counted twice
    return n_found > 1


def _tag_counts_all(file: IO[bytes]) -> bool:
    """Whether an MP3 has a Xing or Info tag whose count of bytes reaches the end of the file.

    Else it has more (files that were joined), or libsndfile guesses its length from the bit rate of its first frame.
    http://gabriel.mp3-tech.org/mp3infotag.html
    """
    file.seek(0)
    head, start = file.read(10), 0
    if head[:3] == b"ID3":
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    tag = re.search(rb"(?:Xing|Info)\0\0\0([\2\3\6\7\12\13\16\17])(.{8})", file.read(64), re.DOTALL)
    if tag is None:
        return False
    has_frame_count = tag[1][0] & 1
    n_bytes = int.from_bytes(tag[2][4:] if has_frame_count else tag[2][:4], "big")
    return start + n_bytes + MP3_TRAILER_BYTES >= os.fstat(file.fileno()).st_size


def _by_ffmpeg(file: IO[bytes], name: str, max_duration_s: float) -> Iterator[Block]:
    file.seek(0)
    cpu_s = int(AV_CPU_S + AV_CPU_SHARE * min(max_duration_s, 1e6))
    command = [sys.executable, "-B", "-P", str(Path(__file__).with_name("av_child.py")), str(cpu_s)]
    told: dict[str, Any] = {}
    with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                told = json.loads(line)
                if "bytes" in told:
                    samples = np.frombuffer(child.stdout.read(told["bytes"]), np.float32)
                    yield samples.reshape(-1, told["channels"]), told["rate_hz"]
        finally:
            child.kill()
    if "kind" not in told:
        detail = f"the decoder ended with status {child.returncode}; it may take {cpu_s} s and 512 MB"
        raise problem(name, "unreadable", detail)
    if told["kind"]:
        raise problem(name, told["kind"], told["reason"])
