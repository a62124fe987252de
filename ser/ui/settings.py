"""Everything that the owner of the page can set, read once from environment variables.

In: a mapping of environment variables. Out: a frozen `AppSettings`. A value that makes no sense raises
`SettingsError`, which names the variable. Nothing is created or contacted here.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ser.errors import SettingsError
from ser.files import SHIPPED
from ser.ui.recordings import is_private

LOCAL_HOST, EVERY_HOST = "127.0.0.1", "0.0.0.0"
SPACE_ENCODER = "ntu-spml/distilhubert"
log = logging.getLogger(__name__)
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w.-]+)?")


def temporary_data_folder() -> Path:
    """Where runs go when the owner names no folder: one folder for each user of the machine."""
    return Path(tempfile.gettempdir()) / f"persian-ser-{os.getuid()}"


@dataclass(frozen=True)
class AppSettings:
    """Settings of the page, with the variable that each is read from.

    Attributes:
        host: address that the server listens on (GRADIO_SERVER_NAME); on a Space every address, else this
            machine.
        port: its port (GRADIO_SERVER_PORT).
        checkpoint: folder of the classifier that answers (SER_CHECKPOINT); None is the shipped one.
        encoder: hub id or folder of the encoder for that checkpoint (SER_ENCODER); None is the one that the
            checkpoint names.
        hub_encoder: hub id of an encoder that the training tabs offer beside the shipped one (SER_HUB_ENCODER,
            "none" for none); without it DistilHuBERT on a Space, else none.
        data: folder for runs and studies (SER_DATA); without it a temporary one, and the page says so.
        data_is_temporary: True where SER_DATA is not set.
        corpora: folders with labelled recordings that the training tabs may read (SER_CORPORA, separated as
            in PATH).
        storage: address of the studies of the tab Tune (SER_STORAGE); None is a file in the data folder.
        dashboard_writable: let visitors change studies in the embedded dashboard (SER_DASHBOARD_WRITABLE=1).
        password: what the owner signs in with (SER_PASSWORD); None: nobody can sign in.
        on_space: True on a Hugging Face Space (SPACE_ID is set).
        space_author: the user or organisation whose Space it is (SPACE_AUTHOR_NAME), where the Space lets people sign
            in with Hugging Face (OAUTH_CLIENT_ID is set); they are its owners then. Else nobody.
        trusted_proxies: how many proxies before the server add to X-Forwarded-For (SER_TRUSTED_PROXIES); one on a
            Space, else none.
        max_upload_mb: largest file that can be uploaded, in megabytes (SER_MAX_UPLOAD_MB).
        max_audio_s: longest recording that is answered, in seconds (SER_MAX_AUDIO_S).
        queue_length: requests that may wait; more are told that the page is busy (SER_QUEUE_LENGTH).
        requests_per_minute: recordings that one client may send in a minute (SER_REQUESTS_PER_MINUTE).
    """

    host: str = LOCAL_HOST
    port: int = 7860
    checkpoint: Path | None = None
    encoder: str | None = None
    hub_encoder: str | None = None
    data: Path = field(default_factory=temporary_data_folder)
    data_is_temporary: bool = True
    corpora: tuple[Path, ...] = ()
    storage: str | None = field(default=None, repr=False)
    dashboard_writable: bool = False
    password: str | None = field(default=None, repr=False)
    on_space: bool = False
    space_author: str = ""
    trusted_proxies: int = 0
    max_upload_mb: int = 32
    max_audio_s: float = 600.0
    queue_length: int = 64
    requests_per_minute: int = 60

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> AppSettings:
        """Read the settings; a variable that is unset or blank leaves the default.

        Raises:
            SettingsError: a value makes no sense; the message names the variable.
        """
        given = {name: value.strip() for name, value in environment.items() if value.strip()}
        on_space = "SPACE_ID" in given
        encoder = given.get("SER_ENCODER")
        return cls(
            host=given.get("GRADIO_SERVER_NAME", EVERY_HOST if on_space else LOCAL_HOST),
            port=_whole(given, "GRADIO_SERVER_PORT", cls.port, 65_535),
            checkpoint=Path(given["SER_CHECKPOINT"]).expanduser() if "SER_CHECKPOINT" in given else None,
            encoder=None if encoder == SHIPPED else encoder,
            hub_encoder=_hub_encoder(given, on_space),
            data=Path(given["SER_DATA"]).expanduser() if "SER_DATA" in given else temporary_data_folder(),
            data_is_temporary="SER_DATA" not in given,
            corpora=_corpora(given),
            storage=given.get("SER_STORAGE"),
            dashboard_writable=_whole(given, "SER_DASHBOARD_WRITABLE", 0, 1, least=0) == 1,
            password=environment["SER_PASSWORD"] if "SER_PASSWORD" in given else None,
            on_space=on_space,
            space_author=given.get("SPACE_AUTHOR_NAME", "") if on_space and "OAUTH_CLIENT_ID" in given else "",
            trusted_proxies=_whole(given, "SER_TRUSTED_PROXIES", int(on_space), 10, least=0),
            max_upload_mb=_whole(given, "SER_MAX_UPLOAD_MB", cls.max_upload_mb, 4_096),
            max_audio_s=_number(given, "SER_MAX_AUDIO_S", cls.max_audio_s, 36_000),
            queue_length=_whole(given, "SER_QUEUE_LENGTH", cls.queue_length, 100_000),
            requests_per_minute=_whole(given, "SER_REQUESTS_PER_MINUTE", cls.requests_per_minute, 100_000),
        )

    def make_data_folder(self) -> Path:
        """Create the data folder where it is missing, readable by this user only.

        Raises:
            SettingsError: it cannot be written to, or it is the temporary one and another user may have laid it out.
        """
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.data):
                is_own = is_private(self.data if self.data_is_temporary else self.data.resolve())
        except OSError as error:
            raise SettingsError(
                f"The data folder {self.data} cannot be written to ({error.strerror}). "
                "Set SER_DATA to a folder that this user may write to."
            ) from error
        if not is_own and self.data_is_temporary:
            raise SettingsError(
                f"The data folder {self.data} is a link, belongs to another user, or others may write to it. "
                "Remove it, or set SER_DATA to a folder of your own."
            )
        if not is_own:
            log.warning("event=data_shared reason='others can write to the folder of SER_DATA'")
        return self.data


def _number(given: Mapping[str, str], name: str, default: float, most: float, least: float = 1) -> float:
    if name not in given:
        return default
    try:
        value = float(given[name])
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise SettingsError(f"{name} must be a number from {least:g} to {most:g}, got {given[name]!r}.")
    return value


def _whole(given: Mapping[str, str], name: str, default: int, most: int, least: int = 1) -> int:
    value = _number(given, name, default, most, least)
    if not float(value).is_integer():
        raise SettingsError(f"{name} must be a whole number from {least} to {most}, got {given[name]!r}.")
    return int(value)


def _hub_encoder(given: Mapping[str, str], on_space: bool) -> str | None:
    encoder = given.get("SER_HUB_ENCODER", SPACE_ENCODER if on_space else "none")
    if encoder != "none" and not HUB_ID.fullmatch(encoder):
        raise SettingsError(f"SER_HUB_ENCODER must be OWNER/NAME, OWNER/NAME@COMMIT or none, got {encoder!r}.")
    return None if encoder == "none" else encoder


def _corpora(given: Mapping[str, str]) -> tuple[Path, ...]:
    parts = given.get("SER_CORPORA", "").split(os.pathsep)
    folders = tuple(Path(part).expanduser() for part in parts if part)
    for folder in folders:
        if not os.path.isdir(folder):  # noqa: PTH112  False, not an error, for a name that is too long
            raise SettingsError(
                f"SER_CORPORA names {folder}, which is not a folder. Separate folders by {os.pathsep!r}."
            )
    return folders
