"""What the project runs on: processor or GPU, threads of several libraries, versions.

torchaudio 2.11 ships one compiled extension that is linked against CUDA. Beside a CPU torch its import
fails with an OSError, and then transformers, which looks for torchaudio, fails with it. None of the
transforms used here needs that extension, so a small stand-in takes its place.

Call `import_torchaudio()` before the first import of transformers or torchaudio, and `let_threads_sleep()` before that
of torch. Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ser.errors import SettingsError

if TYPE_CHECKING:
    import torch

DEVICE_VARIABLE = "SER_DEVICE"
THREADS_VARIABLE = "OMP_NUM_THREADS"  # which torch reads when it is imported
SPIN_COUNT = "10000"  # of GNU OpenMP, about 0.2 ms
_importing = threading.Lock()  # recordings are loaded by several threads at once


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep once they have waited a while for each other; to be called before torch and numpy are.

    By default they spin. Where another process computes too, as a training beside the page does, each wait then lasts
    until that process is interrupted: an answer took 8 s in place of 0.1 s on two cores. Those that sleep at once lose
    a quarter of the encoder's speed in waking up. What the environment sets already stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads spin too, in the way of torch's


def n_threads() -> int:
    """Threads that a computation gets in the calling thread: torch's, before its import what it would take."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):  # not where it is being imported
        return int(torch.get_num_threads())
    requested = os.environ.get(THREADS_VARIABLE, "")
    return int(requested) if requested.isdigit() and int(requested) else len(os.sched_getaffinity(0))


def set_n_threads(n: int) -> None:
    """Let this process compute with `n` threads."""
    os.environ[THREADS_VARIABLE] = str(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)


def give_back_memory() -> None:
    """Give the system what was freed: glibc keeps it otherwise, after a model was opened some 60 MB."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def import_torchaudio() -> ModuleType:
    """Import and return torchaudio, with its compiled extension left out where it cannot load."""
    with _importing:
        try:
            import torchaudio
        except OSError:
            for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
                del sys.modules[name]
            sys.modules["torchaudio._extension"] = _extension_stand_in()
            import torchaudio
    return torchaudio


def _extension_stand_in() -> ModuleType:
    module: Any = ModuleType("torchaudio._extension")
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module._check_cuda_version = lambda: None
    module.fail_if_no_align = lambda function: function
    return module


def chosen_device() -> torch.device:
    """The device of SER_DEVICE, the processor where it is not set.

    Raises:
        SettingsError: torch knows no such device, or this machine has none.
    """
    import torch

    asked = os.environ.get(DEVICE_VARIABLE) or "cpu"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"{DEVICE_VARIABLE} is {asked!r}, and torch cannot compute there ({reason}). Unset it to use the "
            "processor, or install a torch that is built for that device."
        ) from error
    return device


def on_processor() -> bool:
    """Whether SER_DEVICE leaves the work to the processor."""
    return os.environ.get(DEVICE_VARIABLE, "cpu") in ("", "cpu")


def library_versions() -> dict[str, str]:
    """Versions that figures depend on, of what is installed."""
    names = ("torch", "transformers", "torchaudio", "onnxruntime", "silero-vad", "numpy", "soundfile", "av")
    found = {name: version_of(name) for name in names}
    return {"python": platform.python_version()} | {name: one for name, one in found.items() if one}


def version_of(package: str) -> str | None:
    """The version of an installed package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
