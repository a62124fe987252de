"""The buttons of the training tabs: a word at once, the owner's check, an action, its outcome, then news."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gradio as gr
from gradio.context import LocalContext

from ser.errors import SerError
from ser.ui.context import Context
from ser.ui.model import without_folders
from ser.ui.owner import Owner
from ser.ui.run_view import message_box
from ser.ui.runs import LATEST

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Outcome:
    """What a press led to: the key of a sentence, and the run it names."""

    key: str
    is_problem: bool = False
    title: str = ""


class Desk(Protocol):
    """Does what the buttons ask for."""

    @property
    def owner(self) -> Owner: ...

    @property
    def news(self) -> Callable[..., tuple[Any, ...]]: ...


class View(Protocol):
    """The components of a tab that show a run."""

    @property
    def run(self) -> gr.Dropdown: ...

    @property
    def use(self) -> gr.Button: ...

    def inputs(self, context: Context) -> list[Any]: ...

    @property
    def outputs(self) -> list[Any]: ...


@dataclass(frozen=True)
class Presses:
    """What the buttons of a tab have in common.

    Attributes:
        context: of the page.
        desk: does what the buttons ask for.
        view: shows what it did.
        password: where the owner signs in.
        message: where a press is answered.
        say: looks up the tab's sentences.
    """

    context: Context
    desk: Desk
    view: View
    password: gr.Textbox
    message: gr.HTML
    say: Callable[..., str]

    def wire(
        self, button: gr.Button, action: Callable[..., Outcome], inputs: list[Any], waiting: str = "working"
    ) -> None:
        """Let a button call `action(*inputs)` for the owner."""
        language = self.context.language

        def wait(language: str) -> str:
            return f'<div class="box waiting" role="status">{self.say(waiting, language)}</div>'

        def act(password: str, language: str, *values: Any) -> tuple[str, Any]:
            request = LocalContext.request.get(None)
            return self.outcome(action, values, password, language, request)

        outputs = [self.message, self.view.run]
        pressed = button.click(wait, language, self.message, queue=False, **PRIVATE)
        done = pressed.then(act, [self.password, language, *inputs], outputs, **PRIVATE)
        done = done.then(
            self.desk.news, self.view.inputs(self.context), self.view.outputs, queue=False, **PRIVATE
        )
        if button is self.view.use:
            for function, output in list(self.context.loads):
                done = done.then(function, language, output, **PRIVATE)

    def outcome(
        self,
        action: Callable[..., Outcome],
        values: tuple[Any, ...],
        password: str,
        language: str,
        request: Any,
    ) -> tuple[str, Any]:
        """Check the owner and do it: what to say, and which run to show."""
        try:
            self.desk.owner.check(password, language, self.context.client(request), request)
            outcome = action(*values)
        except SerError as error:
            return message_box(without_folders(str(error)), is_problem=True), gr.skip()
        said = self.say(outcome.key, language, title=outcome.title)
        return message_box(said, outcome.is_problem), LATEST if outcome.key == "started" else gr.skip()
