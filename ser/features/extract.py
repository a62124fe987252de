"""Frames of a corpus' clips, computed once, kept on disk, read through memory maps.

In: clips and an encoder. Out: a `FeatureSet`, one entry a clip in the same order, whose frames stay on
the disk (half precision) until they are asked for, so that memory does not grow with the corpus.

    features = extract(corpus, encoder, FeatureCache())
    frames, lengths = features.gather([3, 1, 4], max_frames=300)
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ser.audio.augment import Augmentation
from ser.audio.load import MAX_DURATION_S, load_audio
from ser.errors import CacheError, CorpusError, SerError, SettingsError
from ser.features.cache import FeatureCache, FrameEncoder, Store
from ser.features.shards import MappedShard, Shard
from ser.runtime import give_back_memory

if TYPE_CHECKING:
    from ser.corpora.corpus import Corpus

__all__ = ["FeatureCache", "FeatureSet", "extract", "progress_bar", "shard", "usable_features"]

RESIDENT_BYTES = 64 << 20  # pages touched before they are given back

Progress = Callable[[int, int], None]  # (clips done, clips in all)
Failure = tuple[Path, str]  # file, why it has no frames
Item = TypeVar("Item")


@dataclass(frozen=True)
class _Clip:
    """Where the frames of one clip are."""

    mapped: MappedShard
    start: int
    n_frames: int


class FeatureSet:
    """Frames of clips, by position.

    Attributes:
        paths: `(n,)` the files, in the order given to `extract`.
        lengths: `(n,)` int64, frames of each clip; 0 for one that could not be used.
        usable: `(n,)` bool.
        failed: `(file, message)` of each clip that could not be used.
        dim: numbers a frame.
        n_computed: clips that had to be computed, the others were kept already.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        clips: Sequence[_Clip | None],
        failed: Sequence[Failure],
        n_computed: int = 0,
    ) -> None:
        self.paths = tuple(paths)
        self.failed = tuple(failed)
        self.n_computed = n_computed
        self._clips = tuple(clips)
        self.lengths = np.array([0 if clip is None else clip.n_frames for clip in clips], dtype=np.int64)
        self.usable = np.array([clip is not None for clip in clips], dtype=bool)
        self._maps = tuple({id(clip.mapped): clip.mapped for clip in clips if clip is not None}.values())
        self._touched_bytes = 0

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame, `(dim,)`, or `(layers, dim)` from an encoder of several layers."""
        return self._maps[0].frames.shape[1:] if self._maps else (0,)

    @property
    def dim(self) -> int:
        return self.frame_shape[-1]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> NDArray[np.float16]:
        """A read-only view of one clip's frames, `(frames, *frame_shape)` float16.

        Raises:
            CacheError: the clip has no frames because its file could not be used.
        """
        clip = self._clip(index)
        frames = clip.mapped.frames[clip.start : clip.start + clip.n_frames]
        if self._is_time(frames.nbytes):  # a map counts as memory of the process as far as it was looked at
            for mapped in self._maps:
                mapped.release()
            give_back_memory()
        return frames

    def gather(
        self, indices: Sequence[int], max_frames: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Frames of several clips, one after the other.

        Returns:
            `(total frames, *frame_shape)` float32, each clip cut to `max_frames`; and the lengths,
            `(len(indices),)`.

        Raises:
            CacheError: one of the clips has no frames.
        """
        lengths = self.lengths[np.asarray(indices, dtype=np.int64)]
        if max_frames is not None:
            lengths = np.minimum(lengths, max_frames)
        packed = np.empty((int(lengths.sum()), *self.frame_shape), dtype=np.float32)
        start = 0
        for index, length in zip(indices, lengths.tolist(), strict=True):
            clip = self._clip(index)
            packed[start : start + length] = clip.mapped.frames[clip.start : clip.start + length]
            clip.mapped.release(clip.start, length)
            start += length
        if self._is_time(packed.nbytes):
            give_back_memory()
        return packed, lengths

    def select(self, indices: Iterable[int]) -> FeatureSet:
        """The same frames for some of the clips, in the order of `indices`."""
        chosen = [int(index) for index in indices]
        paths = [self.paths[index] for index in chosen]
        failed = [failure for failure in self.failed if failure[0] in set(paths)]
        return FeatureSet(paths, [self._clips[index] for index in chosen], failed, self.n_computed)

    def followed_by(self, others: Sequence[FeatureSet]) -> FeatureSet:
        """The clips of this set, then those of the others."""
        every = (self, *others)
        return FeatureSet(
            [path for one in every for path in one.paths],
            [clip for one in every for clip in one._clips],
            [failure for one in every for failure in one.failed],
            sum(one.n_computed for one in every),
        )

    def _clip(self, index: int) -> _Clip:
        clip = self._clips[index]
        if clip is None:
            raise CacheError(f"{self.paths[index]} has no features: {dict(self.failed)[self.paths[index]]}")
        return clip

    def _is_time(self, n_bytes: int) -> bool:
        """Whether to give memory back now, after `n_bytes` more."""
        self._touched_bytes += n_bytes
        due = self._touched_bytes > RESIDENT_BYTES
        if due:
            self._touched_bytes = 0
        return due


def extract(
    corpus: Any,
    encoder: FrameEncoder,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
    on_error: Callable[[Path, str], None] | None = None,
    max_duration_s: float = MAX_DURATION_S,
    augmentation: Augmentation | None = None,
) -> FeatureSet:
    """Frames of every clip: from the cache where they are kept, else computed, one clip at a time.

    Args:
        corpus: a corpus (its `utterances` have a `path`), or paths.
        encoder: samples to frames; its `fingerprint` and `layer` tell it from others.
        cache: where to keep the frames; default `FeatureCache()`.
        progress: called with (done, in all) at the start and after every clip.
        on_error: called with file and message of each clip that cannot be used, as it happens; all of them
            are in the result's `failed`.
        max_duration_s: a longer clip is not used.
        augmentation: encode this copy of every clip in its place.

    Raises:
        CacheError: the cache cannot be read or written.
    """
    paths = [Path(getattr(item, "path", item)) for item in getattr(corpus, "utterances", corpus)]
    failed: list[Failure] = []

    def report(path: Path, message: str) -> None:
        failed.append((path, message))
        if on_error is not None:
            on_error(path, message)

    keys = [_content_key(path, report) for path in paths]
    wanted: dict[str, list[Path]] = {}
    for key, path in zip(keys, paths, strict=True):
        if key is not None:
            wanted.setdefault(key, []).append(path)
    settings: dict[str, Any] = {"max_duration_s": max_duration_s}
    if augmentation is not None:
        settings["augmentation"] = augmentation.settings
    store = (cache or FeatureCache()).store(encoder, settings)
    kept = store.find(wanted)
    missing = [key for key in wanted if key not in kept]
    broken = set()

    def encode(key: str) -> NDArray[np.float32] | str:
        return _compute(key, wanted[key][0], encoder, max_duration_s, augmentation)

    if progress is not None:
        progress(len(kept), len(wanted))
    try:
        with closing(_in_parallel(encode, missing, encoder)) as results:
            for done, (key, frames) in enumerate(results, start=len(kept) + 1):
                message = frames if isinstance(frames, str) else _keep(store, key, frames)
                if message:
                    broken.add(key)
                    for path in wanted[key]:
                        report(path, message)
                if progress is not None:
                    progress(done, len(wanted))
    finally:
        store.flush()  # an interruption loses nothing that was computed
    clips = _map(keys, store.find(wanted.keys() - broken), broken)
    return FeatureSet(paths, clips, failed, len(missing) - len(broken))


def usable_features(
    corpus: Corpus,
    encoder: FrameEncoder,
    cache: FeatureCache | str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[Corpus, FeatureSet, tuple[Failure, ...]]:
    """The corpus without the clips that cannot be used, its features, and what was left out and why.

    Raises:
        CorpusError: no clip can be used.
        CacheError: the cache cannot be read or written.
    """
    kept = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    features = extract(corpus, encoder, kept, progress or progress_bar())
    indices = np.flatnonzero(features.usable).tolist()
    if not indices:
        reason = f" {features.failed[0][0].name}: {features.failed[0][1]}" if features.failed else ""
        raise CorpusError(f"None of the {len(features)} clips can be used.{reason}")
    usable = replace(corpus, utterances=tuple(corpus.utterances[index] for index in indices))
    return usable, features.select(indices), features.failed


def with_copies(
    corpus: Corpus, features: FeatureSet, encoder: FrameEncoder, n_copies: int,
    cache: FeatureCache | str | Path | None = None,
) -> FeatureSet:  # fmt: skip
    """Features of every clip, then of a first augmented copy of every clip, then of a second one, and so on.

    Raises:
        CorpusError: a copy cannot be encoded.
        CacheError: the cache cannot be read or written.
    """
    kept = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    copies = []
    for number in range(1, n_copies + 1):
        bar = progress_bar(f"copy {number} of {n_copies}")
        copies.append(extract(corpus, encoder, kept, bar, augmentation=Augmentation(number)))
        for path, message in copies[-1].failed:
            raise CorpusError(
                f"No augmented copy can be made of {path}: {message} Leave it out of the corpus."
            )
    return features.followed_by(copies)


def shard(items: Sequence[Item], i: int, n: int) -> list[Item]:
    """Every n-th item from the i-th on, so that n processes share the work; i counts from 1.

    Raises:
        SettingsError: i is not between 1 and n.
    """
    if not 1 <= i <= n:
        raise SettingsError(f"A shard i/n has i between 1 and n, got {i}/{n}.")
    return list(items[i - 1 :: n])


def progress_bar(label: str = "features") -> Progress:
    """A bar on standard error with the time left; nothing where standard error is not a terminal."""
    bar: Any = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        from tqdm import tqdm

        if bar is None:
            bar = tqdm(total=total, initial=done, desc=label, unit="clip", disable=None)
        bar.update(done - bar.n if not bar.disable else 0)
        if done >= total:
            bar.close()

    return show


def _content_key(path: Path, report: Callable[[Path, str], None]) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        report(path, f"{path} cannot be read: {error.strerror}.")
        return None


def _compute(
    key: str, path: Path, encoder: FrameEncoder, max_duration_s: float, augmentation: Augmentation | None
) -> NDArray[np.float32] | str:
    """The frames of a clip, or why there are none."""
    try:
        samples = load_audio(path, max_duration_s)
        return encoder([augmentation(samples, key) if augmentation else samples])[0]
    except (SerError, RuntimeError, ValueError, MemoryError) as error:
        return str(error) or type(error).__name__


def _keep(store: Store, key: str, frames: NDArray[np.float32]) -> str:
    """Keep the frames of a clip; why not, where that cannot be done, else nothing."""
    try:
        store.add(key, frames)
    except (ValueError, MemoryError) as error:
        return str(error) or type(error).__name__
    return ""


def _in_parallel(
    encode: Callable[[str], NDArray[np.float32] | str], keys: Sequence[str], encoder: FrameEncoder
) -> Generator[tuple[str, NDArray[np.float32] | str]]:
    """Each key with its frames, in order: as many clips at once as torch has threads, each on one of them.

    That is faster than one clip on all threads, most of which wait for each other at its many small steps.
    """
    n_threads = threads_of(encoder)
    together = keys[1:] if n_threads > 1 else []
    for key in keys[
        : len(keys) - len(together)
    ]:  # also a first one: what an encoder sets up at its first use
        yield key, encode(key)
    if not together:
        return
    import torch

    pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
    ahead: deque[tuple[str, Future[NDArray[np.float32] | str]]] = deque()
    try:
        for key in together:
            ahead.append((key, pool.submit(encode, key)))
            if len(ahead) > 2 * n_threads:  # so that memory does not grow
                key, future = ahead.popleft()
                yield key, future.result()
        for key, future in ahead:
            yield key, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)


def threads_of(encoder: FrameEncoder) -> int:
    """How many clips an encoder can work on at once: torch's threads if it computes on the CPU, else one."""
    if not getattr(encoder, "parallel", False):
        return 1
    import torch

    return torch.get_num_threads()


def _map(keys: Sequence[str | None], kept: dict[str, Shard], broken: set[str]) -> list[_Clip | None]:
    mapped: dict[Path, MappedShard] = {}
    clips: list[_Clip | None] = []
    for key in keys:
        if key is None or key in broken:
            clips.append(None)
            continue
        try:
            found = kept[key]
            if found.path not in mapped:
                mapped[found.path] = found.map()
        except (KeyError, OSError, ValueError) as error:
            raise CacheError(
                "Kept features vanished while they were being read; was the cache cleared? Run again."
            ) from error
        clips.append(_Clip(mapped[found.path], *found.clips[key]))
    return clips
