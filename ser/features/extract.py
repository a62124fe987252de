"""Frames of a corpus' utterances, computed once, cached on disk, read when they are asked for.

In: utterances and an encoder. Out: a `FeatureSet`, one entry an utterance in the same order, whose frames stay on the
disk (half precision), so that memory does not grow with the corpus.

    features = extract(corpus, encoder, FeatureCache())
    frames, lengths = features.gather([3, 1, 4], max_frames=300)
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ser.audio.augment import Augmentation
from ser.audio.load import MAX_DURATION_S, load_audio
from ser.audio.speech import speech_of
from ser.errors import CacheError, CorpusError, SerError
from ser.features.address import open_cache
from ser.features.cache import Cached, FeatureCache, FrameEncoder, Store

if TYPE_CHECKING:
    from ser.corpora.corpus import Corpus

Progress = Callable[[int, int], None]  # (utterances done, utterances in all)
Failure = tuple[Path, str]  # file, why it has no frames


class FeatureSet:
    """Frames of utterances, by position.

    Attributes:
        paths: `(n,)` the files, in the order given to `extract`.
        lengths: `(n,)` int64, frames of each utterance; 0 for one that could not be used.
        usable: `(n,)` bool.
        failed: `(file, message)` of each utterance that could not be used.
        n_computed: utterances that had to be computed, the others were cached.
    """

    def __init__(
        self, paths: Sequence[Path], cached: Sequence[Cached | None], failed: Sequence[Failure], n_computed: int = 0
    ) -> None:
        self.paths, self.failed, self.n_computed = tuple(paths), tuple(failed), n_computed
        self._cached = tuple(cached)
        self.lengths = np.array([0 if one is None else one.n_frames for one in cached], dtype=np.int64)
        self.usable = np.array([one is not None for one in cached], dtype=bool)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame, `(dim,)`, or `(layers, dim)` from an encoder of several layers."""
        return next((one.frame_shape for one in self._cached if one is not None), (0,))

    @property
    def dim(self) -> int:
        """Numbers of a frame, of each layer."""
        return self.frame_shape[-1]

    def __len__(self) -> int:
        return len(self._cached)

    def __getitem__(self, index: int) -> NDArray[np.float16]:
        """One utterance's frames as they are cached, `(frames, *frame_shape)` float16.

        Raises:
            CacheError: the utterance has no frames because its file could not be used.
        """
        return self._of(index).read()

    def gather(
        self, indices: Sequence[int], max_frames: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Frames of several utterances, one after the other.

        Returns:
            `(total frames, *frame_shape)` float32, each utterance cut to `max_frames`; and the lengths,
            `(len(indices),)`.

        Raises:
            CacheError: one of the utterances has no frames.
        """
        lengths = self.lengths[np.asarray(indices, dtype=np.int64)]
        if max_frames is not None:
            lengths = np.minimum(lengths, max_frames)
        packed = np.empty((int(lengths.sum()), *self.frame_shape), dtype=np.float32)
        start = 0
        for index, length in zip(indices, lengths.tolist(), strict=True):
            packed[start : start + length] = self._of(index).read(length)
            start += length
        return packed, lengths

    def select(self, indices: Iterable[int]) -> FeatureSet:
        """The same frames for some of the utterances, in the order of `indices`."""
        chosen = [int(index) for index in indices]
        paths, cached = [self.paths[index] for index in chosen], [self._cached[index] for index in chosen]
        kept = set(paths)
        failed = [failure for failure in self.failed if failure[0] in kept]
        return FeatureSet(paths, cached, failed, self.n_computed)

    def followed_by(self, others: Sequence[FeatureSet]) -> FeatureSet:
        """The utterances of this set, then those of the others."""
        every = (self, *others)
        paths = [path for one in every for path in one.paths]
        cached = [cached for one in every for cached in one._cached]
        failed = [failure for one in every for failure in one.failed]
        return FeatureSet(paths, cached, failed, sum(one.n_computed for one in every))

    def _of(self, index: int) -> Cached:
        cached = self._cached[index]
        if cached is None:
            raise CacheError(f"{self.paths[index]} has no features: {dict(self.failed)[self.paths[index]]}")
        return cached


def extract(
    corpus: Any,
    encoder: FrameEncoder,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
    max_duration_s: float = MAX_DURATION_S,
    augmentation: Augmentation | None = None,
) -> FeatureSet:
    """Frames of every utterance: from the cache where they are, else computed.

    Args:
        corpus: a corpus (its `utterances` have a `path`), or paths.
        encoder: samples to frames; its `fingerprint`, `layer` and `engine` tell it from others.
        cache: where to keep the frames; default `FeatureCache()`.
        progress: called with (done, in all) at the start and after every utterance.
        max_duration_s: a longer utterance is not used.
        augmentation: encode this copy of every utterance in its place.

    Raises:
        CacheError: the cache cannot be read or written.
    """
    paths = [Path(getattr(item, "path", item)) for item in getattr(corpus, "utterances", corpus)]
    failed: list[Failure] = []
    keys = [_content_key(path, failed) for path in paths]
    wanted: dict[str, list[Path]] = {}
    for key, path in zip(keys, paths, strict=True):
        if key is not None:
            wanted.setdefault(key, []).append(path)
    copies = {} if augmentation is None else {"augmentation": augmentation.settings}
    speech_only = getattr(encoder, "speech_only", False)
    store = (cache or FeatureCache()).store(encoder, {"max_duration_s": max_duration_s} | copies)

    def encode(key: str) -> NDArray[np.float32]:
        samples = load_audio(wanted[key][0], max_duration_s)
        samples = augmentation(samples, key) if augmentation else samples
        return encoder([speech_of(samples).samples if speech_only else samples])[0]

    found = store.find(wanted)
    missing = [key for key in wanted if key not in found]
    broken = set()
    tell = progress or (lambda done, total: None)
    tell(len(found), len(wanted))
    try:
        with closing(_in_parallel(encode, missing, threads_of(encoder))) as results:
            for done, (key, frames) in enumerate(results, start=len(found) + 1):
                if message := _keep(store, key, frames):
                    broken.add(key)
                    failed += [(path, message) for path in wanted[key]]
                tell(done, len(wanted))
    finally:
        store.flush()  # an interruption loses nothing that was computed
    if missing:
        found = store.find(wanted.keys() - broken)
    if vanished := wanted.keys() - broken - found.keys():
        raise CacheError(f"{len(vanished)} features vanished while others were computed; run the same command again.")
    utterances = [None if key is None else found.get(key) for key in keys]
    return FeatureSet(paths, utterances, failed, len(missing) - len(broken))


def usable_features(
    corpus: Corpus,
    encoder: FrameEncoder,
    cache: FeatureCache | str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[Corpus, FeatureSet, tuple[Failure, ...]]:
    """The corpus without the utterances that cannot be used, its features, and what was left out and why.

    Raises:
        CorpusError: no utterance can be used.
        CacheError: the cache cannot be read or written.
    """
    features = extract(corpus, encoder, open_cache(cache), progress or progress_bar())
    indices = np.flatnonzero(features.usable).tolist()
    if not indices:
        reason = f" {features.failed[0][0].name}: {features.failed[0][1]}" if features.failed else ""
        raise CorpusError(f"None of the {len(features)} clips can be used.{reason}")
    usable = replace(corpus, utterances=tuple(corpus.utterances[index] for index in indices))
    return usable, features.select(indices), features.failed


def with_copies(
    corpus: Corpus,
    features: FeatureSet,
    encoder: FrameEncoder,
    n_copies: int,
    cache: FeatureCache | str | Path | None = None,
) -> FeatureSet:
    """Features of every utterance, then of a first augmented copy of every one, then of a second one, and so on.

    Raises:
        CorpusError: a copy cannot be encoded.
        CacheError: the cache cannot be read or written.
    """
    place = open_cache(cache)
    copies = []
    for number in range(1, n_copies + 1):
        bar = progress_bar(f"copy {number} of {n_copies}")
        copies.append(extract(corpus, encoder, place, bar, augmentation=Augmentation(number)))
        for path, message in copies[-1].failed:
            raise CorpusError(f"No augmented copy of {path} can be made: {message} Leave it out of the corpus.")
    return features.followed_by(copies)


def progress_bar(label: str = "features", unit: str = "clip") -> Progress:
    """A bar on standard error with the time left; nothing where standard error is not a terminal."""
    bar: Any = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        from tqdm import tqdm

        if bar is None:
            bar = tqdm(total=total, initial=done, desc=label, unit=unit, disable=None)
        bar.update(done - bar.n if not bar.disable else 0)
        if done >= total:
            bar.close()

    return show


def threads_of(encoder: FrameEncoder) -> int:
    """How many utterances an encoder can work on at once: torch's threads if it computes on the CPU, else one."""
    if not getattr(encoder, "parallel", False):
        return 1
    import torch

    return torch.get_num_threads()


def _content_key(path: Path, failed: list[Failure]) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        failed.append((path, f"{path} cannot be read: {error.strerror}."))
        return None


def _keep(store: Store, key: str, encoded: Future[NDArray[np.float32]]) -> str:
    """Keep the frames of an utterance; why not, where that cannot be done, else nothing."""
    try:
        store.add(key, encoded.result())
    except CacheError:
        raise
    except (SerError, RuntimeError, ValueError, MemoryError) as error:
        return str(error) or type(error).__name__
    return ""


def _in_parallel(
    encode: Callable[[str], NDArray[np.float32]], keys: Sequence[str], n_threads: int
) -> Generator[tuple[str, Future[NDArray[np.float32]]]]:
    """Each key with its frames, in order: as many utterances at once as torch has threads, each on one of them.

    That is faster than one utterance on all threads, most of which wait for each other at its many small steps.
    """
    limit: dict[str, Any] = {}
    if n_threads > 1:
        import torch

        limit = {"initializer": torch.set_num_threads, "initargs": (1,)}
    ahead: deque[tuple[str, Future[NDArray[np.float32]]]] = deque()
    pool = ThreadPoolExecutor(n_threads, **limit)
    try:
        for number, key in enumerate(keys):
            ahead.append((key, pool.submit(encode, key)))
            # One by one at first: an encoder sets things up at its first use. Then so few that memory does not grow.
            if len(ahead) > (2 * n_threads if number else 0):
                yield ahead.popleft()
        yield from ahead
    finally:
        pool.shutdown(cancel_futures=True)
        if n_threads > 1:
            torch.set_num_threads(n_threads)
