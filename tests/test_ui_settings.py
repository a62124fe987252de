"""The settings of the page: what the environment says, or a message that names the variable."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ser.errors import SettingsError
from ser.ui.settings import AppSettings


def test_without_variables_the_page_is_local_and_its_data_temporary():
    settings = AppSettings.from_environment({})
    assert (settings.host, settings.port) == ("127.0.0.1", 7860)
    assert settings.checkpoint is None
    assert settings.encoder is None
    assert settings.password is None
    assert settings.data_is_temporary
    assert (settings.max_upload_mb, settings.max_audio_s) == (32, 600)


def test_a_space_listens_on_every_address_and_offers_the_hub_encoder():
    settings = AppSettings.from_environment({"SPACE_ID": "someone/space"})
    assert settings.host == "0.0.0.0"
    assert settings.hub_encoder == "ntu-spml/distilhubert"
    assert settings.trusted_proxies == 1
    assert AppSettings.from_environment({}).trusted_proxies == 0


def test_the_encoder_that_is_fetched_can_be_chosen_or_left_out():
    pinned = AppSettings.from_environment({"SER_HUB_ENCODER": "someone/encoder@0123abc"})
    assert pinned.hub_encoder == "someone/encoder@0123abc"
    none = AppSettings.from_environment({"SPACE_ID": "someone/space", "SER_HUB_ENCODER": "none"})
    assert none.hub_encoder is None


def test_the_server_name_wins_over_the_space():
    environment = {"SPACE_ID": "someone/space", "GRADIO_SERVER_NAME": "127.0.0.2", "GRADIO_SERVER_PORT": "80"}
    settings = AppSettings.from_environment(environment)
    assert (settings.host, settings.port) == ("127.0.0.2", 80)


def test_every_variable_is_read(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    settings = AppSettings.from_environment(
        {
            "SER_CHECKPOINT": "/models/mine",
            "SER_ENCODER": "ntu-spml/distilhubert",
            "SER_DATA": str(tmp_path),
            "SER_CORPORA": os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]),
            "SER_PASSWORD": "secret",
            "SER_MAX_UPLOAD_MB": "8",
            "SER_MAX_AUDIO_S": "12.5",
            "SER_QUEUE_LENGTH": "5",
            "SER_REQUESTS_PER_MINUTE": "7",
            "SER_TRUSTED_PROXIES": "2",
            "SER_STORAGE": "sqlite:///studies.db",
            "SER_DASHBOARD_WRITABLE": "1",
        }
    )
    assert settings.checkpoint == Path("/models/mine")
    assert settings.encoder == "ntu-spml/distilhubert"
    assert (settings.data, settings.data_is_temporary) == (tmp_path, False)
    assert settings.corpora == (tmp_path / "one", tmp_path / "two")
    assert settings.password == "secret"
    assert (settings.max_upload_mb, settings.max_audio_s) == (8, 12.5)
    assert (settings.queue_length, settings.requests_per_minute) == (5, 7)
    assert settings.trusted_proxies == 2
    assert (settings.storage, settings.dashboard_writable) == ("sqlite:///studies.db", True)


def test_a_blank_variable_counts_as_unset():
    assert AppSettings.from_environment({"SER_PASSWORD": " ", "SER_ENCODER": "shipped"}) == AppSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADIO_SERVER_PORT", "http"),
        ("GRADIO_SERVER_PORT", "70000"),
        ("SER_MAX_UPLOAD_MB", "0"),
        ("SER_MAX_UPLOAD_MB", "1.5"),
        ("SER_MAX_AUDIO_S", "nan"),
        ("SER_MAX_AUDIO_S", "-3"),
        ("SER_QUEUE_LENGTH", "many"),
        ("SER_TRUSTED_PROXIES", "-1"),
        ("SER_REQUESTS_PER_MINUTE", "inf"),
        ("SER_CORPORA", "/no/such/folder"),
        ("SER_HUB_ENCODER", "../../etc/passwd"),
        ("SER_HUB_ENCODER", "../encoder"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_variable(name, value):
    with pytest.raises(SettingsError, match=name) as raised:
        AppSettings.from_environment({name: value})
    assert value in str(raised.value)


def test_the_readme_lists_every_setting_and_no_other():
    root = Path(__file__).parent.parent
    read = set(re.findall(r'"((?:SER|GRADIO|SPACE)_\w+)"', (root / "ser/ui/settings.py").read_text()))
    table = (
        (root / "docs" / "page.md")
        .read_text()
        .split("Settings are environment variables:")[1]
        .split("\n\n")[1]
    )
    assert set(re.findall(r"`((?:SER|GRADIO|SPACE)_\w+)`", table)) == read | {"SER_CACHE", "SER_DEVICE"}


def test_every_field_is_explained_with_its_variable():
    explained = re.findall(r"^ {8}(\w+): ", AppSettings.__doc__ or "", re.MULTILINE)
    assert explained == [field.name for field in fields(AppSettings)]


def test_the_password_is_never_printed():
    assert "secret" not in repr(AppSettings.from_environment({"SER_PASSWORD": "secret"}))


def test_the_data_folder_is_made_for_this_user_only(tmp_path):
    folder = AppSettings.from_environment({"SER_DATA": str(tmp_path / "deep" / "data")}).make_data_folder()
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0


def test_a_data_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="SER_DATA"):
        AppSettings.from_environment({"SER_DATA": str(tmp_path / "file")}).make_data_folder()


@pytest.mark.parametrize("fault", ["a link", "writable by others", "another user's"])
def test_a_temporary_data_folder_that_another_user_may_have_laid_out_is_refused(
    tmp_path, fault, monkeypatch, caplog
):
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
    named = AppSettings(
        data=folder, data_is_temporary=False
    )  # the owner's choice, as a volume of a Space may be
    assert named.make_data_folder() == folder
    assert ("event=data_shared" in caplog.text) is (fault != "a link")
