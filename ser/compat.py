"""Make torchaudio usable beside a CPU build of torch.

torchaudio 2.11 ships one compiled extension that is linked against CUDA. Beside a CPU torch its import
fails with an OSError, and then transformers, which looks for torchaudio, fails with it. None of the
transforms used here needs that extension, so a small stand-in takes its place.

Call `import_torchaudio()` before the first import of transformers or torchaudio, and `let_threads_sleep()` before that
of torch.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from types import ModuleType
from typing import Any


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep while they wait for each other; must be called before torch is imported.

    By default they spin. Where another process computes too, as a training beside the page does, each wait then lasts
    until that process is interrupted: an answer took 8 s in place of 0.2 s on two cores. An OMP_WAIT_POLICY that is set
    already stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def give_back_memory() -> None:
    """Give what was freed back to the system, where glibc would keep it for later in ever more pieces."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def import_torchaudio() -> ModuleType:
    """Import and return torchaudio, with its compiled extension left out where it cannot load."""
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
