"""Make torchaudio usable beside a CPU build of torch.

torchaudio 2.11 ships one compiled extension that is linked against CUDA. Beside a CPU torch its import
fails with an OSError, and then transformers, which looks for torchaudio, fails with it. None of the
transforms used here needs that extension, so a small stand-in takes its place.

Call `import_torchaudio()` before the first import of transformers or torchaudio.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


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
