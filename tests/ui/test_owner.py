"""Who may press the buttons: the owner, and how the page tells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from ser.ui.limits import client_name
from ser.ui.owner import ALL_TRIES_PER_MINUTE, TRIES_PER_MINUTE, NotOwner, Owner, is_cross_site
from ser.ui.page import build_page
from ser.ui.settings import AppSettings
from ser.ui.texts import TEXTS

PUBLIC = AppSettings(host="0.0.0.0", password="گذر واژه")
FOREIGN = "http://evil.example"


def request(**headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(client=SimpleNamespace(host="127.0.0.1"), headers={"host": "page.example"} | named)


def refusal(owner: Owner, secret: object = None, client: str = "192.0.2.1", asked: Any = None) -> str:
    with pytest.raises(NotOwner) as refused:
        owner.check(secret, "en", client, asked or request())
    return str(refused.value)


def test_on_this_machine_the_token_that_is_printed_is_needed_and_enough():
    owner = Owner(AppSettings())
    owner.check(owner.token, "en", "", request())
    assert owner.knows(owner.token)
    for asked in (request(), request(x_forwarded_for="127.0.0.1")):
        assert "address that was printed" in refusal(owner, asked=asked)
    assert not Owner(AppSettings()).knows(owner.token)  # each start has its own
    assert "another site" in refusal(owner, owner.token, asked=request(origin=FOREIGN))


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0"}, {"host": "192.0.2.7"}, {"on_space": True}])
def test_without_a_password_a_public_page_has_no_owner_and_says_what_is_missing(settings):
    owner = Owner(AppSettings(**settings))
    assert not owner.is_possible
    assert "SER_PASSWORD" in refusal(owner, owner.token)
    with pytest.raises(NotOwner) as refused:
        owner.check("guess", "fa", "", request())
    assert str(refused.value) == TEXTS["owner_closed"].fa


@pytest.mark.parametrize("settings", [PUBLIC, AppSettings(password="x"), AppSettings(on_space=True, password="x")])
def test_with_a_password_it_is_needed_and_leads_to_a_session(settings):
    owner = Owner(settings)
    session = owner.sign_in(settings.password, "en", "192.0.2.1", request())
    owner.check(session, "en", "192.0.2.2", request())
    assert "Sign in" in refusal(owner)
    for wrong in ("wrong", f"{settings.password} ", "\ud800", 5, ["x"]):
        assert "not the right one" in refusal(owner, wrong)


def test_passwords_cannot_be_guessed_quickly_by_one_client(caplog):
    owner = Owner(PUBLIC)
    for _ in range(TRIES_PER_MINUTE):
        refusal(owner, "guess")
    assert "Too many passwords" in refusal(owner, PUBLIC.password)
    owner.check(PUBLIC.password, "en", "192.0.2.2", request())
    assert caplog.text.count("reason=wrong") == TRIES_PER_MINUTE


def test_nor_by_many_and_whoever_has_signed_in_stays_so():
    owner = Owner(PUBLIC)
    session = owner.sign_in(PUBLIC.password, "en", "192.0.2.1", request())
    for number in range(ALL_TRIES_PER_MINUTE):
        refusal(owner, "guess", client=f"client {number}")
    assert "Too many passwords" in refusal(owner, PUBLIC.password, client="another")
    owner.check(session, "en", "192.0.2.1", request())


@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ({}, False),  # no browser
        ({"origin": "https://page.example"}, False), ({"origin": FOREIGN}, True), ({"origin": "null"}, True),
        ({"origin": "http://[::1"}, True), ({"origin": "http://page.example:8080"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy"}, False),
        ({"sec-fetch-site": "none"}, False), ({"sec-fetch-site": "none", "origin": FOREIGN}, True),
        ({"sec-fetch-site": "same-site"}, True), ({"sec-fetch-site": "cross-site", "origin": FOREIGN}, True),
    ],
)  # fmt: skip
def test_requests_of_other_sites_pages_are_told_from_the_own(headers, is_foreign):
    assert is_cross_site({"host": "page.example"} | headers) is is_foreign


def test_addresses_of_this_machine_are_local_and_no_others():
    for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"):
        assert Owner(AppSettings(host=host)).is_local
        assert not Owner(AppSettings(host=host, on_space=True)).is_local
    for host in ("0.0.0.0", "::", "192.168.1.2", "localhost.example", ""):
        assert not Owner(AppSettings(host=host)).is_local


@pytest.mark.parametrize(
    ("forwarded", "n_proxies", "name"),
    [
        ([], 0, "10.0.0.1"), ([], 1, "10.0.0.1"), (["203.0.113.7"], 0, "10.0.0.1"),  # written by anybody
        (["1.1.1.1, 203.0.113.7"], 1, "203.0.113.7"), (["1.1.1.1, 203.0.113.7, 10.0.0.2"], 2, "203.0.113.7"),
        (["1.1.1.1", "203.0.113.7"], 1, "203.0.113.7"),  # two headers of the name
        (["203.0.113.7"], 2, "203.0.113.7"), (["2001:db8:1:2:3:4:5:6"], 1, "2001:db8:1:2::/64"),
        (["2001:db8:1:2:ffff::1"], 1, "2001:db8:1:2::/64"), (["::ffff:203.0.113.7"], 1, "203.0.113.7"),
        (["unknown"], 1, "unknown"),
    ],
)  # fmt: skip
def test_a_client_is_counted_from_the_right_by_the_proxies_that_are_ours(forwarded, n_proxies, name):
    assert client_name("10.0.0.1", forwarded, n_proxies) == name


ORGANISATION = {"preferred_username": "lab", "roleInOrg": "write"}


@pytest.mark.parametrize(
    ("profile", "is_author"),
    [
        ({"preferred_username": "lab"}, True),
        ({"preferred_username": "somebody", "orgs": [ORGANISATION]}, True),
        ({"preferred_username": "somebody", "orgs": [ORGANISATION | {"roleInOrg": "read"}]}, False),
        ({"preferred_username": "somebody", "orgs": [{"preferred_username": "lab"}], "name": "lab"}, False),
        ({"preferred_username": "somebody", "orgs": None}, False),
        (None, False),
    ],
)
def test_on_a_space_hugging_face_says_who_its_author_is(profile, is_author):
    owner = Owner(AppSettings(on_space=True, space_author="lab"))
    assert owner.is_possible
    assert owner.is_author(profile) is is_author
    assert not Owner(AppSettings(on_space=True)).is_author({"preferred_username": ""})


def test_the_button_of_the_hub_is_there_where_a_space_offers_it_and_nowhere_else(tmp_path, monkeypatch):
    for name, value in (("SYSTEM", "spaces"), ("SPACE_ID", "lab/ser")):
        monkeypatch.setenv(name, value)
    for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL"):
        monkeypatch.setattr(f"gradio.oauth.{name}", "x")
    space = {"SPACE_ID": "lab/ser", "SPACE_AUTHOR_NAME": "lab", "SER_DATA": str(tmp_path)}
    offered = {"OAUTH_CLIENT_ID": "x"}
    for given, is_there in ((space | offered, True), (space, False), (offered, False)):
        page = build_page(AppSettings.from_environment(given))
        assert any(isinstance(block, gr.LoginButton) for block in page.blocks.values()) is is_there
