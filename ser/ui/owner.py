"""Who may start, stop and replace things: the owner of the page.

In: the settings, a password and the request that came with it. Out: nothing, or `NotOwner` with a sentence
for the visitor. Without a password in the settings, requests from this machine to a server that listens to
this machine alone are the owner's, and no others; what a proxy passes on is not.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ser.errors import SerError
from ser.ui.limits import RateLimit
from ser.ui.settings import AppSettings
from ser.ui.texts import Text

if TYPE_CHECKING:
    import gradio as gr

TRIES_PER_MINUTE = 30  # passwords that one client may send
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")

TEXTS: dict[str, Text] = {
    "ser_owner_password": Text("Password of this page's owner", "گذرواژه‌ی صاحب این صفحه"),
    "wrong": Text(
        "This needs the password of this page's owner, and that was not it. Everything else works without.",
        "این کار به گذرواژه‌ی صاحب صفحه نیاز دارد و آنچه نوشته شد درست نیست. بقیه‌ی صفحه بدون آن کار می‌کند.",
    ),
    "missing": Text(
        "This needs the password of this page's owner. Type it in above the buttons.",
        "این کار به گذرواژه‌ی صاحب صفحه نیاز دارد. آن را بالای دکمه‌ها بنویسید.",
    ),
    "too_many": Text(
        "Too many passwords were tried. Wait {seconds} s and try again.",
        "گذرواژه‌های زیادی امتحان شد. {seconds} ثانیه صبر کنید و دوباره امتحان کنید.",
    ),
    "closed": Text(
        "On this page nobody can start or stop anything, because it can be reached from other machines "
        "and has no password. Its operator sets one in SER_PASSWORD.",
        "در این صفحه کسی نمی‌تواند چیزی را آغاز یا متوقف کند، چون از رایانه‌های دیگر در دسترس است و "
        "گذرواژه ندارد. گرداننده‌ی صفحه آن را در SER_PASSWORD تعیین می‌کند.",
    ),
}  # fmt: skip


class NotOwner(SerError):
    """The request is not the owner's; the message is for the visitor."""


class Owner:
    """Tells the owner from visitors."""

    def __init__(self, settings: AppSettings) -> None:
        self._password = settings.password
        self._local = is_loopback(settings.host) and not settings.on_space
        self._tries = RateLimit(TRIES_PER_MINUTE)

    @property
    def has_password(self) -> bool:
        """True where the owner signs in with a password: show a box for it."""
        return self._password is not None

    @property
    def is_possible(self) -> bool:
        """False where nobody can be the owner: a page that other machines reach, without a password."""
        return self._password is not None or self._local

    def check(self, password: str | None, language: str, client: str, request: gr.Request | None) -> None:
        """Return where the request is the owner's.

        Args:
            password: what was typed in.
            language: of the message.
            client: who asks, see `Context.client`.
            request: with its headers; None is a call from this process.

        Raises:
            NotOwner: it is not.
        """
        if self._password is None:
            if not (self._local and _is_from_here(request)):
                raise NotOwner(TEXTS["closed"].say(language))
            return
        if not password:
            raise NotOwner(TEXTS["missing"].say(language))
        wait_s = self._tries.wait_s(client)
        if wait_s > 0:
            raise NotOwner(TEXTS["too_many"].say(language, seconds=round(wait_s) + 1))
        if not hmac.compare_digest(str(password).encode(), self._password.encode()):
            raise NotOwner(TEXTS["wrong"].say(language))


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_from_here(request: gr.Request | None) -> bool:
    """From this machine, not passed on by a proxy, and to one of its own names.

    The last keeps out a site whose name was made to point here while its page is open in a local browser.
    """
    if request is None:
        return True
    headers: Mapping[str, str] = request.headers
    if request.client is None or any(name in headers for name in PROXY_HEADERS):
        return False
    asked = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    return is_loopback(str(request.client.host)) and is_loopback(asked)
