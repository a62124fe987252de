"""Everything that is used of Gradio without being promised by it: look here first when Gradio is upgraded.

Each has a test in tests/ui/test_gradio_private.py. Names of CSS classes stand in `static/page.css`, those of routes in
`gate.py`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from ser.ui.logs import log_failure
from ser.ui.texts import TEXTS

if TYPE_CHECKING:
    import gradio as gr

API = "/gradio_api"
UPLOAD, FILE = f"{API}/upload", f"{API}/file="


def import_gradio(temporary: Path) -> None:
    """Import gradio in half the time, with its temporary files in a folder of ours.

    While its components are defined, gradio renders a type stub for each beside its own source (81 of them), which
    takes more than half of its import and writes into site-packages. It leaves out classes whose source file Python
    cannot name; so for the length of the import, Python cannot.
    """
    find_file = inspect.getfile

    def find_other_file(thing: Any) -> str:
        if inspect.isclass(thing) and thing.__module__.startswith("gradio."):
            raise OSError("type stubs are not needed")
        return find_file(thing)

    os.environ["GRADIO_TEMP_DIR"] = str(temporary)
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # who a client is decides `limits.client_name`, not uvicorn
    with mock.patch.object(inspect, "getfile", find_other_file):
        importlib.import_module("gradio")


def is_unknown_endpoint(error: BaseException) -> bool:
    """Whether gradio found no function for a request; the class is looked at by name, as gradio is imported late."""
    return type(error).__name__ == "FnIndexInferError"


def report_failures(page: gr.Blocks) -> None:
    """Let every failure be one line in the log and a sentence for the visitor.

    What a function of ours raises is a defect of ours. Any other failure is gradio's, over values that it could not
    take apart: the client's, unless gradio was preparing what we gave it.
    """
    import gradio.queueing
    import gradio.routes
    import gradio.utils

    gradio.queueing.error_payload, gradio.utils.error_payload = in_a_sentence, in_a_response
    silent: Any = SimpleNamespace(print_exc=lambda: None)
    gradio.routes.traceback = gradio.queueing.traceback = silent
    for function in page.fns.values():
        if function.fn is not None:
            function.fn = guarded(function.fn)


def in_a_sentence(error: BaseException | None, show_error: bool) -> dict[str, Any]:
    """What gradio sends for a failure in its queue; in place of its own, which says nothing."""
    import gradio as gr

    from ser.ui.replies import UNUSABLE

    if error is not None and not isinstance(error, gr.Error):
        frames = traceback.extract_tb(error.__traceback__)
        is_ours = any(frame.name == "postprocess_data" for frame in frames)
        error = failure(error) if is_ours else None
    if error is None:
        return {"error": UNUSABLE, "visible": True}
    return {name: getattr(error, name) for name in ("duration", "visible", "title")} | {"error": error.message}


def in_a_response(error: BaseException | None, show_error: bool) -> dict[str, Any]:
    """The same outside the queue, where a response has a status."""
    from ser.ui.replies import UNUSABLE, Refused

    said = in_a_sentence(error, show_error)
    if said["error"] == UNUSABLE:
        raise Refused(400, UNUSABLE) from error
    return said


def failure(error: BaseException) -> gr.Error:
    """A defect of ours: one line in the log, and what a visitor is told of it in both languages."""
    import gradio as gr

    number = log_failure(error)
    said = " · ".join(TEXTS.say("failed", language, id=number) for language in ("en", "fa"))
    return gr.Error(said, print_exception=False)


@contextmanager
def told() -> Iterator[None]:
    """Turn what a function of ours did not foresee into a line in the log and a sentence."""
    import gradio as gr

    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        raise failure(error) from error


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose unforeseen failures are logged and told."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*values: Any, **named: Any) -> Any:
            with told():
                yield from function(*values, **named)

        return steps

    @functools.wraps(function)
    def call(*values: Any, **named: Any) -> Any:
        with told():
            return function(*values, **named)

    return call


def fetch_nothing(page: gr.Blocks) -> None:
    """Refuse addresses: gradio downloads what a client names as a file's path, of any size, for any input."""
    import gradio as gr
    from gradio_client.utils import is_file_obj_with_meta, traverse

    prepare = page.preprocess_data

    def check(file: dict[str, Any]) -> dict[str, Any]:
        if "://" in file["path"]:
            raise gr.Error("Upload the recording itself; addresses are not fetched.", print_exception=False)
        return file

    async def prepare_uploads(function: Any, inputs: list[Any], *rest: Any, **named: Any) -> list[Any]:
        return await prepare(function, traverse(inputs, check, is_file_obj_with_meta), *rest, **named)

    page.preprocess_data = prepare_uploads


def show_example(component: gr.Audio, name: str) -> None:
    """Let the API panel's snippets name a file; gradio's own example is an address."""
    component.example_payload = lambda: {"path": name, "url": name, "meta": {"_type": "gradio.FileData"}}


def forget_deleted(page: gr.Blocks) -> None:
    """Gradio remembers every file it was ever given; forget those that are gone."""
    for names in page.temp_file_sets:
        names.difference_update([name for name in list(names) if not Path(name).exists()])


def script_address(name: str) -> str:
    """The address of one of the page's scripts.

    Args:
        name: "PlotlyPlot", which draws charts, 1.2 MB, to be fetched before the first; or "core", whose `changeLocale`
            puts the page into another language.
    """
    return next((f"./assets/{path.name}" for path in (_frontend() / "assets").glob(f"{name}-*.js")), "")


def put_first(html: str) -> None:
    """Put HTML first into the head of gradio's page; `launch(head=...)` puts it behind scripts of gradio's own."""
    import gradio.routes
    from jinja2 import ChoiceLoader, DictLoader

    page = (_frontend() / "index.html").read_text(encoding="utf-8")
    page = page.replace("<head>", f"<head>{{% raw %}}{html}{{% endraw %}}", 1)
    templates = gradio.routes.templates.env
    templates.loader = ChoiceLoader([DictLoader({"frontend/index.html": page}), templates.loader])


def _frontend() -> Path:
    import gradio

    return Path(gradio.__file__).parent / "templates" / "frontend"
