"""Import gradio in half the time.

While its components are defined, gradio renders a type stub for each beside its own source (81 of them),
which takes more than half of its import and writes into site-packages. It leaves out classes whose source
file Python cannot name; so for the length of the import, Python cannot.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any
from unittest import mock


def import_gradio() -> None:
    """Import gradio without its type stubs; later imports of it find it imported."""
    find_file = inspect.getfile

    def find_other_file(thing: Any) -> str:
        if inspect.isclass(thing) and thing.__module__.startswith("gradio."):
            raise OSError("type stubs are not needed")
        return find_file(thing)

    with mock.patch.object(inspect, "getfile", find_other_file):
        importlib.import_module("gradio")
