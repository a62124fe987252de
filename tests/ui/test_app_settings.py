"""The settings of the page: what the environment says, or a message that names the variable."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from support import ROOT

from ser.errors import SettingsError
from ser.ui.settings import AppSettings


def settings_of(**environment: str) -> AppSettings:
    return AppSettings.from_environment(environment)


def test_without_variables_the_page_is_local_and_its_data_temporary():
    settings = settings_of()
    assert (settings.host, settings.port) == ("127.0.0.1", 7860)
    assert (settings.checkpoint, settings.encoder, settings.password) == (None, None, None)
    assert (settings.data_is_temporary, settings.trusted_proxies) == (True, 0)
    assert (settings.max_upload_mb, settings.max_audio_s) == (32, 600)
    assert settings_of(SER_PASSWORD=" ", SER_ENCODER="shipped") == AppSettings()  # blank counts as unset


def test_a_space_listens_on_every_address_and_offers_the_hub_encoder_unless_told_otherwise():
    space = {"SPACE_ID": "someone/space"}
    settings = settings_of(**space)
    assert (settings.host, settings.trusted_proxies) == ("0.0.0.0", 1)
    assert settings.hub_encoder == "ntu-spml/distilhubert"
    assert settings_of(**space, SER_HUB_ENCODER="none").hub_encoder is None
    assert settings_of(SER_HUB_ENCODER="someone/encoder@0123abc").hub_encoder == "someone/encoder@0123abc"
    settings = settings_of(**space, GRADIO_SERVER_NAME="127.0.0.2", GRADIO_SERVER_PORT="80")
    assert (settings.host, settings.port) == ("127.0.0.2", 80)


def test_every_variable_is_read_and_the_password_never_printed(tmp_path):
    corpora = (tmp_path / "one", tmp_path / "two")
    for folder in corpora:
        folder.mkdir()
    settings = settings_of(
        SER_CHECKPOINT="/models/mine", SER_ENCODER="ntu-spml/distilhubert", SER_DATA=str(tmp_path),
        SER_CORPORA=os.pathsep.join(map(str, corpora)), SER_PASSWORD="secret", SER_MAX_UPLOAD_MB="8",
        SER_MAX_AUDIO_S="12.5", SER_QUEUE_LENGTH="5", SER_REQUESTS_PER_MINUTE="7", SER_TRUSTED_PROXIES="2",
        SER_STORAGE="sqlite:///studies.db", SER_DASHBOARD_WRITABLE="1",
    )  # fmt: skip
    assert settings == AppSettings(
        checkpoint=Path("/models/mine"), encoder="ntu-spml/distilhubert", data=tmp_path, data_is_temporary=False,
        corpora=corpora, password="secret", max_upload_mb=8, max_audio_s=12.5, queue_length=5, requests_per_minute=7,
        trusted_proxies=2, storage="sqlite:///studies.db", dashboard_writable=True,
    )  # fmt: skip
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADIO_SERVER_PORT", "http"), ("GRADIO_SERVER_PORT", "70000"), ("SER_MAX_UPLOAD_MB", "0"),
        ("SER_MAX_UPLOAD_MB", "1.5"), ("SER_MAX_AUDIO_S", "nan"), ("SER_MAX_AUDIO_S", "-3"),
        ("SER_QUEUE_LENGTH", "many"), ("SER_TRUSTED_PROXIES", "-1"), ("SER_REQUESTS_PER_MINUTE", "inf"),
        ("SER_CORPORA", "/no/such/folder"), ("SER_HUB_ENCODER", "../../etc/passwd"), ("SER_HUB_ENCODER", "../encoder"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_named_with_its_variable(name, value):
    with pytest.raises(SettingsError, match=name) as raised:
        settings_of(**{name: value})
    assert value in str(raised.value)


def test_the_readme_lists_every_setting_and_no_other_and_every_field_is_explained():
    read = set(re.findall(r'"((?:SER|GRADIO|SPACE)_\w+)"', (ROOT / "ser/ui/settings.py").read_text()))
    table = (ROOT / "docs/page.md").read_text().split("Settings are environment variables:")[1].split("\n\n")[1]
    assert set(re.findall(r"`((?:SER|GRADIO|SPACE)_\w+)`", table)) == read | {"SER_CACHE", "SER_DEVICE"}
    explained = re.findall(r"^ {8}(\w+): ", AppSettings.__doc__ or "", re.MULTILINE)
    assert explained == [field.name for field in fields(AppSettings)]


def test_the_data_folder_is_made_for_this_user_only_or_named(tmp_path):
    folder = settings_of(SER_DATA=str(tmp_path / "deep" / "data")).make_data_folder()
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="SER_DATA"):
        settings_of(SER_DATA=str(tmp_path / "file")).make_data_folder()


@pytest.mark.parametrize("fault", ["a link", "writable by others", "another user's"])
def test_a_temporary_data_folder_that_another_user_may_have_laid_out_is_refused(tmp_path, fault, monkeypatch, caplog):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    if fault == "a link":
        folder = tmp_path / "link"
        folder.symlink_to(tmp_path / "data")
    elif fault == "writable by others":
        folder.chmod(0o777)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(SettingsError, match="SER_DATA to a folder of your own"):
        AppSettings(data=folder).make_data_folder()
    named = AppSettings(data=folder, data_is_temporary=False)  # the owner's choice, as a volume of a Space may be
    assert named.make_data_folder() == folder
    assert ("event=data_shared" in caplog.text) is (fault != "a link")
