"""The rows of `ser bench`: each builds its input, checks that plain and ours agree, and measures both in turns."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from ser import plain
from ser.audio import SAMPLE_RATE_HZ
from ser.bench import BenchError, Pair, Row, check_same, take_turns
from ser.checkpoint import SHIPPED, load_checkpoint
from ser.classifier import ClassifierSettings
from ser.compat import import_torchaudio
from ser.encoder import SHIPPED as SHIPPED_ENCODER
from ser.encoder import Encoder
from ser.feature_cache import FeatureCache
from ser.features import extract
from ser.folds import Fold
from ser.lockstep import Lockstep
from ser.training import Training, TrainingSettings

TOLERANCE = 1e-3
FEATURE_TOLERANCE = 2e-3  # kept frames are rounded to half precision, by either way
N_FOLDS, N_LABELS, N_EPOCHS = 5, 6, 2
MEDIAN_S, SPREAD = 3.45, 0.6  # of clip lengths, log-normal: mean 4.1 s, 18 % above 6 s, as in ShEMO
LONGEST_S = 20.0
PAGE_WAIT_S = 180.0
PLAIN_PAGE = """
import sys
import torch, transformers, gradio, ser
predictor = ser.load()
page = gradio.Interface(lambda path: predictor(path).emotion, gradio.Audio(type="filepath"), "label")
page.launch(server_port=int(sys.argv[1]), quiet=True)
"""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        utterances: of the corpus that is trained on; an epoch of ShEMO has 3,000.
        clips: of the extraction.
        repeats, training_repeats: turns of a row, and of the rows that take minutes.
        classifier: shape of what is trained.
        dim: numbers a frame of the training's features.
        encoder: what a `HubertConfig` gets, for the encoder and extraction rows.
        clip_s: length of the single clip.
        memory_clips: 1x of the memory measurement.
    """

    utterances: int = 320
    clips: int = 40
    repeats: int = 15
    training_repeats: int = 3
    classifier: ClassifierSettings = ClassifierSettings()
    dim: int = 768
    encoder: tuple[tuple[str, Any], ...] = (("num_hidden_layers", 2),)  # DistilHuBERT's size
    clip_s: float = 4.0
    memory_clips: int = 100


QUICK = Sizes(utterances=80, clips=8, repeats=5, training_repeats=1, memory_clips=30)


class ListedFrames:
    """Frames in memory: what both ways of training read."""

    def __init__(self, lengths: NDArray[np.int64], dim: int, targets: NDArray[np.int64]) -> None:
        rng = np.random.default_rng(40)
        directions = rng.standard_normal((N_LABELS, dim)).astype(np.float32)
        self.frames = [
            (rng.standard_normal((length, dim), dtype=np.float32) + 0.1 * directions[target]).astype(
                np.float16
            )
            for length, target in zip(lengths.tolist(), targets.tolist(), strict=True)
        ]

    def gather(
        self, indices: Sequence[int], max_frames: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        chosen = [self.frames[index][:max_frames] for index in indices]
        packed = np.concatenate(chosen).astype(np.float32)
        return packed, np.array([len(one) for one in chosen], dtype=np.int64)


def lengths_s(n: int) -> NDArray[np.float64]:
    """`(n,)` seconds, distributed as the lengths of ShEMO's clips: mean 4.1 s, 18 % longer than 6 s."""
    drawn = np.random.default_rng(40).lognormal(np.log(MEDIAN_S), SPREAD, n)
    return np.clip(drawn, 0.5, LONGEST_S)


def training_row(sizes: Sizes, packed: bool = False) -> Row:
    """Two epochs of five folds: folds of ours that find a thread idle begin the next epoch."""
    classifier, settings = sizes.classifier, TrainingSettings(patience=0)
    n = sizes.utterances
    targets = np.arange(n) % N_LABELS
    features = ListedFrames((lengths_s(n) * 50).astype(np.int64), sizes.dim, targets)
    folds = _folds(n)
    difference = _same_training(sizes, features, targets, folds[0], settings)
    models = [plain.PlainClassifier(sizes.dim, N_LABELS, classifier, packed) for _ in folds]
    optimizers = [plain.plain_optimizer(model, settings) for model in models]
    ours = Lockstep(features, targets, folds, N_LABELS, sizes.dim, classifier, settings)

    def plain_epochs() -> None:
        for epoch in range(N_EPOCHS):
            for number, (model, optimizer, fold) in enumerate(zip(models, optimizers, folds, strict=True)):
                parts = fold.train, fold.validation
                plain.plain_epoch(model, optimizer, features, targets, *parts, settings, epoch, number)

    def our_epochs() -> None:
        for _ in range(N_EPOCHS):
            ours.run_epoch()

    way = "`nn.GRU` on packed sequences" if packed else "`nn.GRU` padded to 300 frames"
    return Row(
        "training-packed" if packed else "training",
        f"training: {N_EPOCHS} epochs of five folds, {n} utterances of ShEMO's lengths",
        f"{way}, fold after fold", "-" if packed else "5", difference,
        take_turns(plain_epochs, our_epochs, sizes.training_repeats, warm=False),
    )  # fmt: skip


def encoder_row(sizes: Sizes) -> Row:
    """One clip through an encoder of DistilHuBERT's size."""
    with _random_encoder(sizes) as folder:
        eager, ours = plain.PlainEncoder(folder), Encoder.load(folder)
        samples = _speech_like(sizes.clip_s, seed=1)
        difference = check_same("encoder", eager(samples), ours([samples])[0], TOLERANCE)
        pairs = take_turns(lambda: eager(samples), lambda: ours([samples]), sizes.repeats)
    work = f"encoder of DistilHuBERT's size, a clip of {sizes.clip_s:g} s"
    return Row("encoder", work, "eager `HubertModel`", "2", difference, pairs)


def extraction_row(sizes: Sizes) -> Row:
    """Files of unequal lengths to kept frames."""
    with _random_encoder(sizes) as folder, tempfile.TemporaryDirectory() as work:
        eager, ours = plain.PlainEncoder(folder), Encoder.load(folder)
        paths = _write_clips(Path(work), sizes.clips)
        out = Path(work) / "plain"
        out.mkdir()

        def by_us() -> Any:
            cache = Path(work) / "cache"
            shutil.rmtree(cache, ignore_errors=True)
            return extract(paths, ours, FeatureCache(cache))

        plain.plain_extraction(eager, paths, out)
        features = by_us()
        difference = max(
            check_same("extraction", np.load(out / f"{path.stem}.npy"), features[index], FEATURE_TOLERANCE)
            for index, path in enumerate(paths)
        )
        pairs = take_turns(
            lambda: plain.plain_extraction(eager, paths, out), by_us, max(1, sizes.repeats // 5), warm=False
        )
    work_line = f"extraction of {sizes.clips} files of ShEMO's lengths, DistilHuBERT's size"
    return Row("extraction", work_line, "one by one, eager", "2.5", difference, pairs)


def clip_row(sizes: Sizes) -> Row:
    """A file to the probabilities of the shipped model, warm."""
    from ser.predictor import load

    predictor = load()
    checkpoint, model = load_checkpoint(SHIPPED)
    head = plain.PlainClassifier(checkpoint.encoder.dim, len(checkpoint.labels), checkpoint.classifier, True)
    head.copy_weights(model)
    head.eval()
    eager = plain.PlainEncoder(SHIPPED_ENCODER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        soundfile.write(path, _speech_like(sizes.clip_s, seed=2), SAMPLE_RATE_HZ)

        def by_plain() -> torch.Tensor:
            return plain.plain_answer(
                eager, head, path, checkpoint.max_frames, checkpoint.calibration.temperature
            )

        answer = predictor(path, timeline=False).probabilities
        difference = check_same("clip", by_plain(), list(answer.values()), TOLERANCE)
        pairs = take_turns(by_plain, lambda: predictor(path, timeline=False), sizes.repeats)
    work = f"file of {sizes.clip_s:g} s to answer, shipped model, warm"
    return Row(
        "clip",
        work,
        "transformers feature extractor and model, `nn.GRU` head",
        "3, under 60 ms",
        difference,
        pairs,
    )


def page_row(sizes: Sizes) -> Row:
    """Start to the first page."""
    root = Path(__file__).parent.parent
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"}

    def ours(port: int) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, str(root / "app.py")], environment | {"GRADIO_SERVER_PORT": str(port)}

    def imports_first(port: int) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", PLAIN_PAGE, str(port)], environment

    pairs = []
    for turn in range(max(1, sizes.training_repeats)):
        plain_s, plain_cpu_s = _first_page(*imports_first(17_700 + turn), 17_700 + turn, root)
        ours_s, ours_cpu_s = _first_page(*ours(17_800 + turn), 17_800 + turn, root)
        pairs.append(Pair(plain_s, ours_s, plain_cpu_s, ours_cpu_s))
    return Row(
        "page",
        "start to first page",
        "imports and model first, then the page",
        "under 5 s",
        None,
        tuple(pairs),
    )


ROWS: dict[str, Callable[[Sizes], Row]] = {
    "training": training_row,
    "training-packed": lambda sizes: training_row(sizes, packed=True),
    "encoder": encoder_row,
    "extraction": extraction_row,
    "clip": clip_row,
    "page": page_row,
}


def _same_training(
    sizes: Sizes, features: ListedFrames, targets: NDArray[np.int64], fold: Fold, settings: TrainingSettings
) -> float:
    """Without dropout, from the same weights in the same order, an epoch ends at the same validation loss."""
    still = ClassifierSettings(
        sizes.classifier.base_units, sizes.classifier.final_units, sizes.classifier.gru_layers, dropout=0.0
    )
    train = fold.train[: 2 * settings.batch_size]
    ours = Training(features, targets, N_LABELS, sizes.dim, train, fold.validation, still, settings)
    model = plain.PlainClassifier(sizes.dim, N_LABELS, still, packed=True)
    model.copy_weights(copy.deepcopy(ours.model))
    optimizer = plain.plain_optimizer(model, settings)
    expected = plain.plain_epoch(model, optimizer, features, targets, train, fold.validation, settings)
    return check_same("training", expected.validation_loss, ours.run_epoch().validation_loss, TOLERANCE)


def _folds(n: int) -> list[Fold]:
    """70 / 10 / 20 % of the utterances; no speakers are needed to measure speed."""
    everyone = np.arange(n)
    made = []
    for number in range(N_FOLDS):
        turned = np.roll(everyone, number * n // N_FOLDS)
        test, validation, train = np.split(turned, [n // 5, 3 * n // 10])
        made.append(Fold(*(tuple(part.tolist()) for part in (train, validation, test))))
    return made


def _speech_like(seconds: float, seed: int) -> NDArray[np.float32]:
    """`(samples,)`: harmonics of a wandering pitch, and noise."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    phase = (
        2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * (0.7 + 0.01 * seed) * time_s)) / SAMPLE_RATE_HZ
    )
    sound = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
    return (0.1 * sound + 0.02 * rng.standard_normal(time_s.size)).astype(np.float32)


def _write_clips(folder: Path, n: int) -> list[Path]:
    paths = []
    for number, seconds in enumerate(lengths_s(n)):
        paths.append(folder / f"{number:05d}.wav")
        soundfile.write(paths[-1], _speech_like(float(seconds), number), SAMPLE_RATE_HZ)
    return paths


@contextmanager
def _random_encoder(sizes: Sizes) -> Iterator[Path]:
    """A folder with an encoder of random weights: speed does not depend on what it has learnt."""
    import_torchaudio()
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    with tempfile.TemporaryDirectory() as folder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(40)
            HubertModel(HubertConfig(**dict(sizes.encoder))).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
        yield Path(folder)


def _first_page(
    command: list[str], environment: dict[str, str], port: int, folder: Path
) -> tuple[float, float]:
    """Seconds from start to the first whole page, and its CPU time."""
    begun = time.perf_counter()
    before = os.times()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                    answer.read()
                took = time.perf_counter() - begun
                break
            except OSError as error:
                if process.poll() is not None or time.perf_counter() - begun > PAGE_WAIT_S:
                    raise BenchError(f"No page on port {port}: {error}. Is the port in use?") from error
                time.sleep(0.02)
    finally:
        process.terminate()
        process.wait()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return took, cpu
