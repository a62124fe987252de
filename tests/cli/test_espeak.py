"""Speech for a distillation: the same for a seed, and a plain word when espeak-ng is missing."""

from __future__ import annotations

import shutil

import pytest

from ser.cli import main
from ser.cli.espeak import sentences, speak
from ser.errors import SettingsError


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_same_seed_speaks_the_same_clips(tmp_path, capsys):
    for name in ("first", "second"):
        assert main(["espeak", "--out", str(tmp_path / name), "--count", "4"]) == 0
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [path.name for path in first] == [path.name for path in second]
    assert all(path.suffix == ".wav" and path.name[:2] in sentences() for path in first)
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second, strict=True))


def test_a_machine_without_espeak_is_told_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SettingsError, match="apt-get install espeak-ng"):
        next(speak(tmp_path, 1))
