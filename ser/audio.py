"""From a file that a person drops to mono float32 samples at 16 kHz.

In: a path to a recording (WAV of any sample format, FLAC, OGG/Opus, MP3, AIFF; M4A, WebM, AAC, AMR and
WMA through ffmpeg where it is installed), or samples with their rate. Out: `(samples,)` float32, 16 kHz,
within [-1, 1]. This is the only road from a file to samples: training, command line and page all take it.

Every recording that cannot be used raises `AudioError`, whose `kind` is one of "missing", "not_audio",
"unreadable", "empty", "silent", "too_short", "too_long", "nan", "truncated", "no_ffmpeg".
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ser.errors import AudioError

SAMPLE_RATE_HZ = 16_000
MIN_DURATION_S = 0.1
MAX_DURATION_S = 600.0
SILENCE_PEAK = 1e-4  # -80 dB of full scale
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 768_000
MAX_CHANNELS = 64
BLOCK_SAMPLES = 1 << 20  # decoded at a time, over all channels: memory follows the sound, not the header
FFMPEG_TIMEOUT_S = 120

# Resampling filter: the "kaiser best" design of the torchaudio documentation.
LOWPASS_WIDTH = 64
ROLLOFF = 0.9475937167399596
KAISER_BETA = 14.769656459379492
MAX_RATIO_TERM = 1_000  # 44,101 Hz becomes 44,100: a rate off by 2e-6 is inaudible, its exact kernel 3 GB

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

# What libsndfile logs of a chunk, or of an Ogg stream, that ends too soon.
SHORT_CHUNK = re.compile(r"^ *(?:data|SSND|Data Size|riff) *: *(\d+) \(should be (\d+)\)", re.MULTILINE)
OGG_CUT = "Junk after the last page"

Samples = NDArray[np.float32]


def load_audio(path: str | Path, max_duration_s: float = MAX_DURATION_S) -> Samples:
    """Read a recording as mono samples at 16 kHz.

    Args:
        path: the file.
        max_duration_s: a longer recording is refused before it is decoded to memory.

    Returns:
        `(samples,)` float32 at 16,000 Hz.

    Raises:
        AudioError: with a sentence that says what was wrong and what to do.
    """
    samples, rate_hz = read_audio(path, max_duration_s)
    return prepare(samples, rate_hz, name=Path(path).name)


def read_audio(path: str | Path, max_duration_s: float = MAX_DURATION_S) -> tuple[Samples, int]:
    """Decode a recording at its own rate, channels averaged: `((samples,) float32, rate in Hz)`.

    Raises:
        AudioError: the file is missing, not audio, empty, damaged or longer than `max_duration_s`.
    """
    path = Path(path)
    head = _first_bytes(path)
    for offset, magic, demuxer, name in FFMPEG_CONTAINERS:
        if head[offset : offset + len(magic)] == magic:
            return _read_with_ffmpeg(path, demuxer, name, max_duration_s)
    with path.open("rb") as file:
        return _decode(file, path.name, max_duration_s)


def prepare(samples: NDArray[np.generic], rate_hz: int, name: str = "the recording") -> Samples:
    """Check samples and bring them to mono float32 at 16 kHz.

    Args:
        samples: `(samples,)` or `(samples, channels)`, floats within about [-1, 1] or integers of any width.
        rate_hz: their rate.
        name: what to call the recording in a message.

    Returns:
        `(samples,)` float32 at 16,000 Hz, the peak at most 1.

    Raises:
        AudioError: NaN or infinite samples, silence, under 0.1 s, or a rate that no recorder uses.
    """
    _check_rate(rate_hz, name)
    mono = _mono_float(np.asarray(samples))
    if mono.size == 0:
        raise AudioError(f"{name} holds no sound at all. Record again, or choose another file.", "empty")
    if not np.isfinite(mono).all():
        raise AudioError(
            f"{name} holds samples that are not numbers (NaN or infinite). Export it again from its source.", "nan"
        )
    duration_s = mono.size / rate_hz
    if duration_s < MIN_DURATION_S:
        raise AudioError(
            f"{name} lasts {duration_s:.3f} s; at least {MIN_DURATION_S} s is needed. Record a longer piece.",
            "too_short",
        )
    peak = float(np.abs(mono).max())
    if peak < SILENCE_PEAK:
        raise AudioError(
            f"{name} is silent (peak {peak:.1e} of full scale). Check that the microphone is on, and record again.",
            "silent",
        )
    if peak > 1.0:  # float files may exceed full scale
        mono = mono / peak
    return resample(mono.astype(np.float32), rate_hz, SAMPLE_RATE_HZ)


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Change the rate of `(samples,)` with a band-limited sinc filter under a Kaiser window."""
    if from_hz == to_hz:
        return samples
    import torch

    from ser.compat import import_torchaudio

    ratio = Fraction(from_hz, to_hz).limit_denominator(MAX_RATIO_TERM)
    resampled = import_torchaudio().functional.resample(
        torch.from_numpy(np.ascontiguousarray(samples)),
        ratio.numerator,
        ratio.denominator,
        lowpass_filter_width=LOWPASS_WIDTH,
        rolloff=ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=KAISER_BETA,
    )
    return np.clip(resampled.numpy(), -1.0, 1.0)


def stream_audio(path: str | Path, block_s: float) -> Iterator[Samples]:
    """Decode a recording of any length piece by piece, for memory that does not grow with it.

    Args:
        path: the file.
        block_s: length of a piece; the last one may be shorter. Pieces that are silent or under 0.1 s are left out.

    Yields:
        `(samples,)` float32 at 16,000 Hz. Files that need ffmpeg are decoded whole, up to `MAX_DURATION_S`.

    Raises:
        AudioError: the file cannot be opened as audio; damage further on ends the stream instead.
    """
    import soundfile

    path = Path(path)
    head = _first_bytes(path)
    if any(head[offset : offset + len(magic)] == magic for offset, magic, _, _ in FFMPEG_CONTAINERS):
        whole = load_audio(path)
        step = int(block_s * SAMPLE_RATE_HZ)
        blocks: Iterator[Samples] = (whole[start : start + step] for start in range(0, whole.size, step))
        rate_hz = SAMPLE_RATE_HZ
    else:
        try:
            rate_hz = soundfile.info(str(path)).samplerate
            blocks = soundfile.blocks(str(path), blocksize=int(block_s * rate_hz), dtype="float32")
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path.name} cannot be read as audio ({error}).", "not_audio") from error
    try:
        for block in blocks:
            try:
                yield prepare(block, rate_hz, path.name)
            except AudioError:  # a silent stretch or a scrap at the end
                continue
    except soundfile.LibsndfileError:
        return


def _first_bytes(path: Path) -> bytes:
    if not path.exists():
        raise AudioError(f"There is no file {path}. Check the path.", "missing")
    if not path.is_file():
        raise AudioError(f"{path} is not a file. Give the path of one recording.", "missing")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise AudioError(f"{path} cannot be opened: {error.strerror}. Check its permissions.", "unreadable") from error
    if not head:
        raise AudioError(f"{path.name} is empty (0 bytes). Save or upload it again.", "empty")
    return head


def _decode(file: IO[bytes], name: str, max_duration_s: float) -> tuple[Samples, int]:
    """Decode block by block with libsndfile, so that memory never follows what a header claims."""
    import soundfile

    try:
        with soundfile.SoundFile(file) as sound:
            _check_header(sound, name, max_duration_s)
            return _read_blocks(sound, name, max_duration_s), sound.samplerate
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{name} cannot be read as audio ({str(error).split(': ')[-1].rstrip('.')}). "
            "WAV, FLAC, OGG, Opus, MP3 and AIFF work; convert other formats first.",
            "not_audio",
        ) from error
    except (RuntimeError, ValueError, TypeError, MemoryError, OSError) as error:
        raise AudioError(f"{name} is damaged and cannot be decoded ({error}). Export it again.", "unreadable") from error


def _check_header(sound: object, name: str, max_duration_s: float) -> None:
    rate_hz, channels, frames = sound.samplerate, sound.channels, sound.frames  # type: ignore[attr-defined]
    _check_rate(rate_hz, name)
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name} claims {channels} channels; at most {MAX_CHANNELS} are read.", "unreadable")
    if frames > max_duration_s * rate_hz:
        raise AudioError(
            f"{name} lasts {frames / rate_hz:.0f} s by its header; the limit is {max_duration_s:.0f} s. "
            "Cut it into shorter pieces.",
            "too_long",
        )


def _read_blocks(sound: object, name: str, max_duration_s: float) -> Samples:
    import soundfile

    sound_file: soundfile.SoundFile = sound  # type: ignore[assignment]
    limit = int(max_duration_s * sound_file.samplerate)
    block_frames = max(1, BLOCK_SAMPLES // sound_file.channels)
    blocks: list[Samples] = []
    n_read = 0
    while n_read <= limit:
        try:
            block = sound_file.read(block_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _truncated(name) from error
        if len(block) == 0:
            break
        blocks.append(block.mean(axis=1))
        n_read += len(block)
    if n_read > limit:
        raise AudioError(f"{name} lasts more than {max_duration_s:.0f} s. Cut it into shorter pieces.", "too_long")
    if _falls_short(sound_file, n_read):
        raise _truncated(name)
    if not blocks:
        raise AudioError(f"{name} holds no sound at all. Record again, or choose another file.", "empty")
    return np.concatenate(blocks)


def _falls_short(sound: object, n_read: int) -> bool:
    """True where fewer frames came than the file promised, by its frame count or by libsndfile's log.

    A length of 0 or of at least 2 GiB is what a recorder writes that cannot seek back: not a promise.
    """
    expected = sound.frames  # type: ignore[attr-defined]
    if sound.format == "MP3":  # type: ignore[attr-defined]  # its frame count can be an estimate
        expected = int(0.95 * expected)
    log = sound.extra_info  # type: ignore[attr-defined]
    promises = [(int(claimed), int(found)) for claimed, found in SHORT_CHUNK.findall(log)]
    return n_read < expected or OGG_CUT in log or any(found < claimed < 1 << 31 for claimed, found in promises)


def _truncated(name: str) -> AudioError:
    return AudioError(f"{name} ends before its header says: part of it is missing. Copy or upload it again.", "truncated")


def _check_rate(rate_hz: int, name: str) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"{name} has a sample rate of {rate_hz} Hz; {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz are read.", "unreadable"
        )


def _mono_float(samples: NDArray[np.generic]) -> NDArray[np.float32]:
    if samples.ndim not in (1, 2):
        raise AudioError(f"Samples of shape {samples.shape} are no recording; give (samples,) or (samples, channels).")
    if np.issubdtype(samples.dtype, np.unsignedinteger):
        middle = (np.iinfo(samples.dtype).max + 1) // 2
        samples = (samples.astype(np.float64) - middle) / middle
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"Samples of type {samples.dtype} are no recording; give floats or integers.")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    with np.errstate(over="ignore"):
        return mono.astype(np.float32)


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
            raise AudioError(f"{path.name} took ffmpeg over {FFMPEG_TIMEOUT_S} s; convert it first.") from error
        if result.returncode != 0:
            lines = result.stderr.decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else "no reason given"
            raise AudioError(f"{path.name} looks like {container} but ffmpeg cannot decode it ({reason[:200]}).")
        return _decode(decoded.file, path.name, max_duration_s)
