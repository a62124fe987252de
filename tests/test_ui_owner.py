"""Who may press the buttons: the owner, and how the page tells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ser.ui.owner import TEXTS, TRIES_PER_MINUTE, NotOwner, Owner, is_loopback
from ser.ui.settings import AppSettings


def request(host: str = "localhost:7860", client: str = "127.0.0.1", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(client=SimpleNamespace(host=client), headers={"host": host} | named)


def refusal(owner: Owner, password: str | None = None, asked: Any = None, language: str = "en") -> str:
    with pytest.raises(NotOwner) as refused:
        owner.check(password, language, "192.0.2.1", asked or request())
    return str(refused.value)


@pytest.mark.parametrize("asked", [request(), request("[::1]:7860", "::1"), request("127.0.0.1"), None])
def test_on_a_page_for_this_machine_alone_nobody_needs_a_password(asked: Any) -> None:
    owner = Owner(AppSettings())
    assert not owner.has_password
    owner.check(None, "en", "", asked)


@pytest.mark.parametrize(
    "settings",
    [AppSettings(host="0.0.0.0"), AppSettings(host="192.0.2.7"), AppSettings(on_space=True)],
    ids=["every address", "a public address", "a Space"],
)
def test_without_a_password_a_public_page_refuses_and_says_what_is_missing(settings: AppSettings) -> None:
    assert "SER_PASSWORD" in refusal(Owner(settings))
    assert refusal(Owner(settings), language="fa") == TEXTS["closed"].fa


@pytest.mark.parametrize(
    "asked",
    [
        request(x_forwarded_for="192.0.2.1"),
        request(forwarded="for=192.0.2.1"),
        request("evil.example"),
        request("127.0.0.1.evil.example:7860"),
        request(""),
        request(client="192.0.2.1"),
        SimpleNamespace(client=None, headers={"host": "localhost"}),
    ],
)
def test_without_a_password_what_comes_from_elsewhere_is_refused(asked: Any) -> None:
    assert "SER_PASSWORD" in refusal(Owner(AppSettings()), asked=asked)


@pytest.mark.parametrize(
    "settings", [AppSettings(password="گذر واژه"), AppSettings(host="0.0.0.0", password="x")]
)
def test_with_a_password_it_is_needed_and_enough(settings: AppSettings) -> None:
    owner = Owner(settings)
    assert owner.has_password
    owner.check(settings.password, "en", "192.0.2.1", request("page.example", "192.0.2.1"))
    assert "password of this page's owner" in refusal(owner, None)
    assert "that was not it" in refusal(owner, "wrong")
    assert "that was not it" in refusal(owner, f"{settings.password} ")


def test_passwords_cannot_be_guessed_quickly() -> None:
    owner = Owner(AppSettings(password="secret"))
    for _ in range(TRIES_PER_MINUTE):
        refusal(owner, "guess")
    assert "Too many passwords" in refusal(owner, "secret")
    owner.check("secret", "en", "192.0.2.2", request())


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.2", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_addresses_of_this_machine_are_told_from_others(host: str, own: bool) -> None:
    assert is_loopback(host) is own
