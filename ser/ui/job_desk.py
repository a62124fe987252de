"""What the buttons of the training tabs do: start, stop, resume, use, delete; one training at a time, for the owner.

In: what the browser sent. Out: an `Outcome`, a sentence in the visitor's language whatever happens. A run is a process
of its own (`ser.ui.jobs`) in a folder below the data folder; a press acts on the run that the page shows.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ser.errors import SerError
from ser.ui import jobs
from ser.ui.corpora import has_folds
from ser.ui.model import without_folders
from ser.ui.owner import NotOwner
from ser.ui.run_settings import Number, choice, option, options, values_of
from ser.ui.run_view import title
from ser.ui.runs import DOWNLOADS, LATEST, Run, Runs
from ser.ui.texts import emotion_name
from ser.ui.training_texts import Problem, lead, say

if TYPE_CHECKING:
    import gradio as gr

    from ser.corpora.corpus import Corpus
    from ser.ui.context import Context

FOLD_OPTIONS = ("--folds", "--seed")
ACTIONS = ("stop", "resume", "use", "train", "adopt", "delete")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a press led to.

    Attributes:
        said: a sentence for the visitor, a line each for several.
        reason: English words of the program, shown behind it.
        kind: of the box around it.
        offer, label: what a further button would do ("folds 4", "delete NAME"), and what is written on it.
        show: which run is shown from now on; None leaves the one that is chosen.
        settings: corpus and values for the form; a corpus of None, and no settings, leave what is there.
    """

    said: str
    kind: str = "sure"
    offer: str = ""
    label: str = ""
    show: str | None = None
    settings: tuple[str | None, list[Any]] | None = None
    reason: str = ""


class JobDesk(ABC):
    """The actions of one training tab."""

    kind: ClassVar[str]  # "cv" or "tune": begins the ids of its components and the keys of its own sentences
    numbers: ClassVar[Sequence[Number]]
    chosen: ClassVar[tuple[str, Sequence[str]]]  # the option behind the numbers that takes one of several words

    def __init__(self, context: Context, folder: str, kind_of_run: type[Run]) -> None:
        self.context, self.data = context, context.settings.data.resolve()
        self.runs = Runs(self.data / folder, kind_of_run)

    def words(self, values: Sequence[Any]) -> list[str]:
        """The options of the command for the values of the settings; raises `Problem` where one makes no sense."""
        *numbers, word = values or (None,)
        return [*options(self.numbers, numbers), *choice(self.chosen[0], word, self.chosen[1])]

    @abstractmethod
    def command(self, run: Run) -> list[str]:
        """The command that a run is started with, without its options."""

    def press(
        self,
        action: Callable[..., Outcome],
        values: Sequence[Any],
        secret: str,
        language: str,
        request: gr.Request | None,
    ) -> Outcome:
        """Check the owner and act; whatever happens, it ends in a sentence."""
        try:
            self.context.owner.check(secret, language, self.context.client(request), request)
            return action(language, *values)
        except NotOwner as error:
            return Outcome(str(error), "problem")
        except Problem as error:
            return Outcome(error.in_words(language), "problem")
        except SerError as error:
            return Outcome(lead(language, error), "problem", reason=without_folders(str(error)))
        except Exception as error:
            log.exception("event=press_failed action=%s", action.__name__)
            reason = getattr(error, "strerror", None) or type(error).__name__
            return Outcome(say("server_failed", language, reason=reason), "problem")

    def start(self, language: str, corpus: str, encoder: str, name: str, *values: Any) -> Outcome:
        """Start a run; where its corpus cannot be split so, offer what can be done.

        Raises:
            SerError: a choice makes no sense, or another training is running.
        """
        run, words = self.runs.new(str(name or corpus)), self.words(values)
        source, folder = self.context.encoders.source(encoder), self.context.corpora.folder(corpus)
        if jobs.is_running(self.data):
            raise Problem("busy")
        folds, seed = (int(option(words, one, "40")) for one in FOLD_OPTIONS)
        found = self.context.corpora.read(corpus)
        if not has_folds(found, folds, seed):
            fewer = next((n for n in range(folds - 1, 1, -1) if has_folds(found, n, seed)), None)
            offer = (f"folds {fewer}", say("offer_folds", language, folds=fewer)) if fewer else ("", "")
            return Outcome(_unsplittable(found, folds, language), "problem", *offer)
        places = ["--corpus", str(folder), "--encoder", source, "--cache", str(self.data / "features")]
        jobs.start([*self.command(run), *places, *words], run.folder, one_at_a_time=self.data)
        log.info("event=run_started run=%s", run.name)
        return Outcome(say("started", language), show=LATEST)

    def accept(self, language: str, offer: str, corpus: str, encoder: str, name: str, *values: Any) -> Outcome:
        """Do what was offered: start with fewer folds, or delete a run."""
        what, _, rest = str(offer).partition(" ")
        if what == "folds" and rest.isdecimal():
            place = [number.name for number in self.numbers].index("folds")
            return self.start(language, corpus, encoder, name, *values[:place], int(rest), *values[place + 1 :])
        self.remove(self.run_of(rest if what == "delete" else None, "gone"))
        log.info("event=run_deleted run=%s", rest)
        return Outcome(say("deleted", language), show=LATEST)

    def stop(self, language: str, name: str) -> Outcome:
        run = self.run_of(name, "not_running", "stop")
        jobs.stop(run.folder)
        log.info("event=run_stopped run=%s", run.name)
        return Outcome(say("stop_done", language))

    def resume(self, language: str, name: str) -> Outcome:
        run = self.run_of(name, "not_resumed", "resume")
        jobs.start(self.as_started(run), run.folder, one_at_a_time=self.data)
        log.info("event=run_continued run=%s", run.name)
        return Outcome(say("resumed", language))

    def use(self, language: str, name: str) -> Outcome:
        """Let the model of a run answer on the page.

        Raises:
            SerError: there is none, or it cannot be loaded.
        """
        run = self.run_of(name, "no_model")
        model = run.model()
        if model is None:
            raise Problem("no_model", kind=self.kind)
        self.context.model.replace(model, title=title(run, "en"))
        log.info("event=model_replaced run=%s", run.name)
        return Outcome(say("in_use", language, title=title(run, language)))

    def train(self, language: str, name: str) -> Outcome:
        """Train the best configuration of a study; a cross-validation has none."""
        raise Problem("no_model", kind=self.kind)

    def adopt(self, language: str, name: str) -> Outcome:
        """Fill the form with the corpus and the settings of a run."""
        words = self.as_started(self.run_of(name, "gone", "adopt"))
        option_name, choices = self.chosen
        corpora, place = self.context.corpora, option(words, "--corpus", "")
        corpus = next((known for known in corpora.names if str(corpora.folder(known)) == place), None)
        values = [*values_of(self.numbers, words), option(words, f"--{option_name}", choices[0])]
        return Outcome(say("adopted", language), settings=(corpus, values))

    def delete(self, language: str, name: str) -> Outcome:
        """Ask whether to delete a run."""
        run = self.run_of(name, "gone", "delete")
        asked = say("delete_asked", language, title=title(run, language))
        return Outcome(asked, "unsure", f"delete {run.name}", say("offer_delete", language))

    def remove(self, run: Run) -> None:
        """Delete a run."""
        jobs.remove(run.folder)

    def run_of(self, name: object, otherwise: str, action: str = "") -> Run:
        """The run of a name that an action is allowed for; raises `Problem` where there is none."""
        run = self.runs.find(name)
        if run is None or (action and action not in self._allowed_now(run)):
            raise Problem(otherwise, kind=self.kind)
        return run

    def _allowed_now(self, run: Run) -> set[str]:
        try:
            return self.allowed(run, run.status())
        except Exception:  # its files are damaged, which the page says: all that is left is to delete it
            return {"delete"}

    def allowed(self, run: Run, status: jobs.JobStatus) -> set[str]:
        """Which of `ACTIONS` make sense now."""
        if status.state == "running":
            return {"stop", "adopt"}
        can_resume = status.state in ("stopped", "failed") and bool(status.command)
        possible = {"delete": True, "resume": can_resume, "use": run.model() is not None, "adopt": bool(status.command)}
        return {action for action, is_possible in possible.items() if is_possible}

    def as_started(self, run: Run) -> list[str]:
        """The command that resumes a run."""
        return list(run.status().command)

    def tested(self, run: Run) -> Run | None:
        """The run whose files can be downloaded."""
        return run

    def download(self, request: Request) -> Response:
        """One of a run's files, by names from the lists of runs and of files; `?show` opens the report."""
        run, name = self.runs.find(request.path_params["run"]), request.path_params["name"]
        files = self.tested(run) if run and run.name == request.path_params["run"] else None
        content = files.download(name) if files else None
        if run is None or content is None:
            return PlainTextResponse("There is no such file.", 404)
        shown = f"{run.name}-{name}".encode("ascii", "replace").decode().replace("?", "_")
        as_page = name == "report.html" and "show" in request.query_params
        headers = {
            "content-disposition": "inline" if as_page else f'attachment; filename="{shown}"',
            "content-security-policy": "sandbox allow-scripts",
            "x-content-type-options": "nosniff",
        }
        return Response(content, media_type=DOWNLOADS[name], headers=headers)

    def close(self) -> None:
        """The server ends: a run in progress ends after its epoch and can be resumed."""
        for run in self.runs.running():
            with suppress(Problem):
                jobs.ask_to_stop(run.folder)


def _unsplittable(corpus: Corpus, folds: int, language: str) -> str:
    pairs = {(one.emotion, one.speaker) for one in corpus.utterances}
    fewest, rarest = min((sum(emotion == label for emotion, _ in pairs), label) for label in corpus.emotions)
    about: dict[str, Any] = {"folds": folds, "speakers": len(corpus.speakers), "fewest": fewest}
    key = "few_speakers" if fewest == len(corpus.speakers) else "rare_emotion"
    return say(key, language, emotion=emotion_name(rarest, language), **about)
