"""Five-fold cross-validation (section 4 of the paper) into a run folder that is readable while it grows.

In: a corpus, its features, settings. Out: a run folder (`ser.training.run_folder`) and in it `checkpoint/`, trained on
all speakers for the median best epoch. A run that was killed resumes from the last epoch of each fold; on the same
machine, with the same number of threads, it ends with the same result as one that was not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ser.classifier.checkpoint import Checkpoint, EncoderReference, save_checkpoint
from ser.classifier.ensemble import Ensemble
from ser.corpora.corpus import Corpus
from ser.errors import Stopped
from ser.files import read_json
from ser.scoring.calibration import Calibration, calibrate, measured, softmax
from ser.scoring.metrics import score
from ser.training.frames import FrameSource, LabelledFrames
from ser.training.lockstep import Lockstep
from ser.training.on_workers import train_on
from ser.training.run_folder import RunFolder, Tested
from ser.training.settings import CrossvalSettings
from ser.training.trainer import EpochReport, Training

FINAL_STREAM = 999  # of the training on all speakers; those of the folds count from 0
# Conditions of a checkpoint's scores.
OF_ONE_MODEL = "measured on the fold models, the shipped weights are then trained on all speakers"
OF_ENSEMBLE = (
    "measured on the fold models one by one; what answers is their average, which no speaker here can measure, "
    "since none is new to all of them"
)
CROSS_FITTED = "calibration error, precision and coverage by a calibration that the test part did not help to fit"


class Crossval:
    """One cross-validation in its run folder."""

    def __init__(
        self, corpus: Corpus, features: FrameSource, encoder: EncoderReference, settings: CrossvalSettings, folder: Path
    ) -> None:
        """Prepare, or resume what an earlier process left in the folder.

        Raises:
            SettingsError: the folder holds a run with another corpus, encoder or settings.
            FoldError: the corpus cannot be split so.
        """
        self.corpus, self.encoder, self.settings = corpus, encoder, settings
        self.folds = settings.folds(corpus)
        self.run_folder = RunFolder(Path(folder), corpus, encoder, settings, self.folds)
        self.data = LabelledFrames.of(corpus, features, encoder.dim)
        self.lockstep = Lockstep(self.data, self.folds, settings.classifier, settings.training)
        self.resumed = self.lockstep.restore(self.run_folder.states)

    def run(
        self,
        listener: Callable[[int, EpochReport], None] = lambda fold, report: None,
        should_stop: Callable[[], bool] = lambda: False,
        final: bool = True,
        executor: Executor | None = None,
    ) -> dict[str, Any]:
        """Train all folds, test each once, write everything; returns the content of `result.json`.

        Args:
            listener: called after each epoch of each fold with the fold's number and the report.
            should_stop: asked after each epoch of each fold.
            final: also train the checkpoint for inference.
            executor: what trains the folds, each by itself; by default they train here, in lockstep.

        Raises:
            Stopped: `should_stop` said so; the state is saved.
            Diverged: the first epoch of a fold gave no finite loss.
        """

        def tell(number: int, report: EpochReport) -> None:
            self._write_progress("training")
            listener(number, report)

        def check() -> None:
            if should_stop():
                self._write_progress("stopped")
                raise Stopped(f"Stopped in epoch {self.lockstep.epoch + 1}. Run the same command again to resume.")

        def after_fold(number: int, report: EpochReport) -> None:
            self.lockstep.save(self.run_folder.states, number)
            tell(number, report)
            check()

        self._write_progress("training")
        if executor is not None:
            train_on(executor, self.lockstep, self.data, self.settings, self.run_folder.states, tell, check)
        while not self.lockstep.done:
            self.lockstep.run_epoch(after_fold)
        self._write_progress("testing")
        tested = self._test()
        if final:
            self._write_progress("training the final model")
            self._write_checkpoint(tested)
        result = self.run_folder.write_result(tested, self.lockstep)
        self._write_progress("done")
        return result

    def run_once(
        self,
        listener: Callable[[int, EpochReport], None],
        should_stop: Callable[[], bool],
        final: bool = True,
        executor: Executor | None = None,
    ) -> dict[str, Any]:
        """Content of `result.json`: that of an earlier process that came to the end, else by `run`."""
        progress, result = (self.run_folder.path / f"{name}.json" for name in ("progress", "result"))
        if result.exists() and read_json(progress)["state"] == "done":
            return read_json(result)
        return self.run(listener, should_stop, final, executor)

    def _write_progress(self, state: str) -> None:
        self.run_folder.write_progress(state, self.lockstep)

    def _test(self) -> Tested:
        return Tested.of(self.data, self.folds, self.lockstep.trainings)

    def _write_checkpoint(self, tested: Tested) -> None:
        epochs = max(1, round(statistics.median(self.lockstep.best_epochs())))
        members = self.lockstep.trainings if self.settings.ensemble else []
        model: nn.Module = (
            Ensemble.of([one.best_model() for one in members], tested.temperatures)
            if members
            else train_on_all(self.data, self.settings, epochs)
        )
        calibration, probabilities = self._calibrated(tested)
        training = self.settings.training
        conditions = OF_ENSEMBLE if members else OF_ONE_MODEL
        checkpoint = Checkpoint(
            labels=self.corpus.emotions,
            encoder=self.encoder,
            classifier=self.settings.classifier,
            max_frames=training.max_frames,
            calibration=calibration,
            training=asdict(training) | {"epochs": epochs, "utterances": len(self.data.targets)},
            scores={
                "conditions": f"{self.run_folder.protocol}; {conditions}; {CROSS_FITTED}",
                "intervals": "95 %, bootstrap over speakers",
                **score(self.data.targets, probabilities, self.data.speakers, self.corpus.emotions).to_dict(),
            },
            data=self.run_folder.identity["corpus"] | {"speakers": list(self.corpus.named_speakers)},
            seed=training.seed,
            versions=self.run_folder.versions(),
            members=len(members) or 1,
        )
        save_checkpoint(self.run_folder.path / "checkpoint", checkpoint, model)

    def _calibrated(self, tested: Tested) -> tuple[Calibration, NDArray[np.float64]]:
        """Calibration of the checkpoint, and the probabilities `(utterances, labels)` that measure it.

        It is fitted on the test parts of all folds, each answered by a model that has not heard its speakers: nobody
        else stands for strangers as well. So it is measured by cross-fitting: a fold's test part is calibrated by the
        other folds' test parts. No speaker is new to all members of an ensemble, so its average cannot be calibrated
        here: each member has the temperature of its own validation speakers, and the threshold is a single member's;
        an average is rarely surer than its members.
        """
        logits, temperature = tested.logits, None
        if self.settings.ensemble:
            logits, temperature = logits / np.array(tested.temperatures)[tested.fold_of, None], 1.0
        true = self.data.targets
        probabilities, sure = np.zeros(logits.shape), np.zeros(len(true), dtype=bool)
        for number in range(len(self.folds)):
            test = tested.fold_of == number
            fitted = calibrate(logits[~test], true[~test], temperature)
            probabilities[test] = softmax(logits[test], fitted.temperature)
            sure[test] = probabilities[test].max(axis=1) >= fitted.threshold
        shipped = calibrate(logits, true, temperature)
        return measured(shipped, sure, probabilities.argmax(axis=1) == true), probabilities


def train_on_all(data: LabelledFrames, settings: CrossvalSettings, epochs: int) -> nn.Module:
    """Classifier trained on every utterance for a fixed number of epochs."""
    schedule = replace(settings.training, max_epochs=epochs, patience=0)
    training = Training(data, range(len(data.targets)), [], settings.classifier, schedule, stream=FINAL_STREAM)
    while not training.stopped:
        training.run_epoch()
    return training.best_model()
