"""A program of its own that decodes one recording with FFmpeg's libraries (PyAV), on behalf of `ser.audio.decode`.

In: a file as standard input; seconds of processor time as argument. Out: on standard output lines of JSON, each
`{"rate_hz", "channels", "bytes"}` and then that many bytes of interleaved float32; the last is `{"kind", "reason"}`.

Why a process: a file of 7.5 kB that claims 90 million samples in its index made the library take 3.2 GB and 12 s in one
call, which nothing inside a process can interrupt. Here the system limits memory and time, and no file or connection
can be opened, whatever a playlist asks for. The price: 0.1 s and 33 MB for each recording that libsndfile cannot read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import av
import av.subtitles.codeccontext  # PyAV would import these when it meets a stream, and then nothing can be opened
import av.subtitles.stream
import av.video.codeccontext

MEMORY_BYTES = 512 << 20  # of address space; the libraries themselves take 120 MB
MAX_CHANNELS = 64
BLOCK_BYTES = 1 << 18
FORMATS = "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,ac3,amr,amrnb,amrwb,mov,matroska,asf"
CODECS = (
    "aac,ac3,alac,amrnb,amrwb,eac3,flac,g722,g723_1,g726,g726le,gsm,gsm_ms,libopencore_amrnb,libopencore_amrwb,libopus,"
    "mp2,mp2float,mp3,mp3float,opus,speex,truespeech,vorbis,wmapro,wmav1,wmav2,wmavoice,"
) + ",".join(name for name in av.codecs_available if name.startswith(("pcm_", "adpcm_")))
# Containers whose duration is a promise; elsewhere it is an estimate, or that of the first of several streams.
PROMISING = ("mov", "matroska", "asf")


class UnusableError(Exception):
    """`(kind, reason)` of a recording that cannot be used."""


def main() -> None:
    _limit(int(sys.argv[1]))
    kind = reason = ""
    try:
        container, stream = _open()
        _decode(container, stream)
    except UnusableError as error:
        kind, reason = error.args
    except Exception as error:  # whatever a damaged file leads to
        kind, reason = "unreadable", str(getattr(error, "strerror", None) or error)[:200]
    _say({"kind": kind, "reason": reason})


def _open() -> tuple[Any, Any]:
    options = {"format_whitelist": FORMATS, "codec_whitelist": CODECS, "max_streams": "32"}
    try:
        container = av.open(sys.stdin.buffer, options=options, io_open=_refuse)
    except (av.FFmpegError, ValueError) as error:
        sys.stdin.buffer.seek(4)
        is_mp4 = sys.stdin.buffer.read(4) == b"ftyp"  # its index comes last: cut off, or never written
        raise UnusableError("truncated" if is_mp4 else "not_audio", "") from error
    if not container.streams.audio:
        raise UnusableError("empty", "")
    stream = container.streams.audio[0]
    if stream.codec_context is None or stream.codec_context.name not in CODECS.split(","):
        raise UnusableError("unreadable", "codec")
    stream.codec_context.thread_count = 1
    return container, stream


def _decode(container: Any, stream: Any) -> None:
    """Put all sound out, with the rate and the channels of the first frame."""
    found_s, waiting, resampler = 0.0, bytearray(), None
    for frame in _frames(container, stream):
        frame.pts = None
        if resampler is None:
            rate_hz, layout = frame.sample_rate, frame.layout
            about = {"rate_hz": rate_hz, "channels": layout.nb_channels}
            resampler = av.AudioResampler("flt", layout, rate_hz)
            if layout.nb_channels > MAX_CHANNELS:
                raise UnusableError("unreadable", f"{layout.nb_channels} channels")
        try:
            blocks = resampler.resample(frame)
        except ValueError:  # another rate or other channels from here on
            resampler = av.AudioResampler("flt", layout, rate_hz)
            blocks = resampler.resample(frame)
        for block in blocks:
            found_s += block.samples / rate_hz
            waiting += memoryview(block.planes[0])[: block.samples * about["channels"] * 4]
        if len(waiting) >= BLOCK_BYTES:
            _say(about | {"bytes": len(waiting)}, waiting)
            waiting.clear()
    if waiting:
        _say(about | {"bytes": len(waiting)}, waiting)
    if found_s < 0.95 * _promised_s(container, stream) - 0.1:
        raise UnusableError("truncated", "")


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames; damaged packets are left out, as players do, unless they are most of it."""
    problem: Exception | None = None
    n_good = n_bad = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            problem, n_bad = error, n_bad + 1
            continue
        n_good += bool(frames)
        yield from frames
    if problem is not None and n_good <= n_bad:
        raise problem


def _promised_s(container: Any, stream: Any) -> float:
    """Seconds that the container promises of this stream; 0 where it promises nothing."""
    if container.format.name.split(",")[0] not in PROMISING:
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    is_alone = len(container.streams) == 1  # else the picture may last longer
    return (container.duration or 0) / av.time_base if is_alone else 0.0


def _refuse(*asked: Any) -> None:
    raise PermissionError("a recording may not open another file")


def _say(message: dict[str, Any], content: bytes | bytearray = b"") -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n" + content)


def _limit(cpu_s: int) -> None:
    try:
        import resource
    except ImportError:  # not there on Windows
        return
    limits = {resource.RLIMIT_AS: MEMORY_BYTES, resource.RLIMIT_CPU: cpu_s, resource.RLIMIT_NOFILE: 3}
    for kind, most in limits.items():
        allowed = resource.getrlimit(kind)[1]
        most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main()
