"""Send the page to a Hugging Face Space: what a Space needs of this checkout, and nothing else.

In: the Space's name and this checkout. Out: its address. huggingface_hub makes the Space where it is missing,
sends large files by LFS or Xet as the hub asks, and commits once. It signs in with `HF_TOKEN` or what `hf auth
login` keeps; nothing of that is read here.
"""

from __future__ import annotations

import re
from pathlib import Path

from ser.errors import SerError, SettingsError

ROOT = Path(__file__).parent.parent
SENT = (
    "app.py",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "requirements.txt",
    "assets/*",
    "checkpoints/*",
    "ser/*",
)
LEFT_OUT = ("*.pyc", "*/.*", ".*", "*.tmp")
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class PushError(SerError):
    """The hub did not take the Space."""


def contents(root: Path = ROOT) -> list[Path]:
    """The files that are sent, relative to `root`.

    Raises:
        SettingsError: this is no checkout of the project.
    """
    from huggingface_hub.utils import filter_repo_objects

    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    sent = list(filter_repo_objects(names, allow_patterns=list(SENT), ignore_patterns=list(LEFT_OUT)))
    missing = [name for name in SENT if "*" not in name and name not in sent]
    if missing:
        raise SettingsError(
            f"{root} lacks {', '.join(missing)}: a Space is made from a checkout of the project. Run it there."
        )
    return [Path(name) for name in sent]


def check_name(space: str) -> str:
    """The name itself.

    Raises:
        SettingsError: it is not of the form OWNER/NAME.
    """
    if not NAME.fullmatch(space):
        raise SettingsError(f"A Space is named OWNER/NAME, got {space!r}.")
    return space


def push(
    space: str, private: bool = False, root: Path = ROOT, endpoint: str | None = None, message: str = "Update"
) -> str:
    """Make the Space where it is missing and bring it up to this checkout; returns its address.

    Files of the kind that is sent and that are gone here are deleted there; other files of the Space stay.

    Args:
        space: OWNER/NAME.
        private: for a Space that is made now; one that exists stays as it is.
        root: the checkout.
        endpoint: of the hub; by default HF_ENDPOINT or the public one.
        message: of the commit.

    Raises:
        SettingsError: the name or the checkout is not fit.
        PushError: the hub refused, or cannot be reached.
    """
    from huggingface_hub import HfApi

    check_name(space)
    contents(root)
    api = HfApi(endpoint=endpoint, library_name="persian-ser")
    try:
        address = api.create_repo(
            space, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True
        )
        api.upload_folder(
            repo_id=space, repo_type="space", folder_path=root, commit_message=message,
            allow_patterns=list(SENT), ignore_patterns=list(LEFT_OUT), delete_patterns=list(SENT),
        )  # fmt: skip
    except Exception as error:
        # The hub client raises a dozen unrelated classes (its own, httpx's, OSError, ValueError).
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = (
            "Sign in with `hf auth login`, or set HF_TOKEN to a token that may write."
            if status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError"
            else "What arrived stays there; run the command again to go on."
        )
        reason = f"status {status}" if status else type(error).__name__
        raise PushError(f"The hub did not take the Space {space} ({reason}). {advice}") from error
    return str(address)
