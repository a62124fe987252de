"""Who may start, stop and replace things: the owner of the page.

On this machine whoever started the page is its owner: the address that is printed at the start carries a token.
Elsewhere the owner signs in with the password of the settings, and on a Space also with Hugging Face: the Space's user,
or who may write in its organisation. All lead to a session, a secret that the page keeps in the visitor's browser and
sends along with what only the owner may do; no other site can make a browser send it.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ser.errors import SerError
from ser.ui.limits import RateLimit
from ser.ui.settings import AppSettings
from ser.ui.texts import say

if TYPE_CHECKING:
    import gradio as gr

WRITERS = ("admin", "write", "contributor")  # roles in an organisation of the hub
TRIES_PER_MINUTE = 10  # passwords that one client may send
ALL_TRIES_PER_MINUTE = 60  # and all clients together

log = logging.getLogger(__name__)


class NotOwner(SerError):
    """The request is not the owner's; the message is for the visitor."""


class Owner:
    """Tells the owner from visitors; one for the whole page.

    Attributes:
        token: the session of whoever has proved to be the owner, until the server is started again.
        is_local: the page is for this machine alone, so that the token may be printed there.
    """

    def __init__(self, settings: AppSettings) -> None:
        self._password, self.is_local = settings.password, is_local(settings)
        self._author = settings.space_author
        self.token = secrets.token_urlsafe(24)
        self._tries, self._all_tries = RateLimit(TRIES_PER_MINUTE), RateLimit(ALL_TRIES_PER_MINUTE)

    @property
    def has_password(self) -> bool:
        """True where the owner can sign in with a password."""
        return self._password is not None

    @property
    def has_hub(self) -> bool:
        """True where the owner can sign in with Hugging Face."""
        return bool(self._author)

    @property
    def is_possible(self) -> bool:
        """False where nobody can be the owner: the page can be reached from elsewhere, and nobody can sign in."""
        return self.has_password or self.is_local or self.has_hub

    def is_author(self, profile: Mapping[str, Any] | None) -> bool:
        """Whether Hugging Face says that somebody is the Space's user, or may write in its organisation."""
        if profile is None or not self.has_hub:
            return False
        places = [profile, *(one for one in profile.get("orgs") or () if one.get("roleInOrg") in WRITERS)]
        return self._author in [place.get("preferred_username") for place in places]

    def knows(self, session: object) -> bool:
        """Whether a session is the owner's; costs no try."""
        return self.is_possible and _equal(session, self.token)

    def sign_in(self, secret: object, language: str, client: str, request: gr.Request | None) -> str:
        """The session of whoever has the password or the token.

        Raises:
            NotOwner: as `check`.
        """
        self.check(secret, language, client, request)
        return self.token

    def check(self, secret: object, language: str, client: str, request: gr.Request | None) -> None:
        """Return where the request is the owner's.

        Args:
            secret: a session, or the password. A session does not count as a try, so that nobody's guesses lock out
                whoever has signed in.
            language: of the message.
            client: who sends it, see `Context.client`.
            request: with its headers; None is a call from this process.

        Raises:
            NotOwner: it is not.
        """
        if request is not None and is_cross_site(request.headers):
            raise self._refused("elsewhere", language)
        if self.knows(secret):
            return
        if not self.is_possible:
            raise self._refused("closed", language)
        if not secret:
            raise self._refused("missing" if self.has_password else "token", language)
        wait_s = max(self._tries.wait_s(client), self._all_tries.wait_s(""))
        if wait_s > 0:
            raise self._refused("too_many", language, seconds=round(wait_s) + 1)
        if not (self.has_password and _equal(secret, str(self._password))):
            raise self._refused("wrong", language)

    def _refused(self, reason: str, language: str, **values: object) -> NotOwner:
        log.warning("event=owner_refused reason=%s", reason)
        return NotOwner(say(f"owner_{reason}", language, **values))


def _equal(given: object, known: str) -> bool:
    return hmac.compare_digest(str(given).encode(errors="replace"), known.encode(errors="replace"))


def is_local(settings: AppSettings) -> bool:
    """Whether the server listens to this machine alone."""
    if settings.on_space:
        return False
    try:
        return settings.host == "localhost" or ipaddress.ip_address(settings.host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends a request for another site's page.

    Browsers say so in `Sec-Fetch-Site`, which no script can set; where they do not (plain http to another machine), the
    host of `Origin` is compared with that of the request. What is no browser sends neither.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site == "same-origin" or origin is None:
        return site not in (None, "same-origin", "none")
    return _host_of(origin) != headers.get("host", "").lower()


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
