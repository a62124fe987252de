"""What `ser push` sends to a Space, against a stand-in for the hub on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, running_hub

from ser.cli import main
from ser.errors import SettingsError
from ser.space import ROOT, PushError, contents, push

WEIGHTS = b"\x00\x01" * 5000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the stand-in speaks LFS
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    with running_hub() as server:
        yield server


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like the project's, with much in it that is no part of a Space."""
    root = tmp_path / "checkout"
    files = {
        "app.py": b"print()", "LICENSE": b"free", "README.md": b"---\nsdk: gradio\n---\n", "pyproject.toml": b"",
        "requirements.txt": b"gradio", "ser/one.py": b"1", "ser/ui/two.py": b"2", "assets/a.png": b"png",
        "checkpoints/encoder/model.safetensors": WEIGHTS,
        "ser/__pycache__/one.pyc": b"", ".git/config": b"", ".env": b"secret", "ser/.hidden": b"secret",
        "tests/test_one.py": b"", "runs/result.json": b"{}", "notes.txt": b"",
    }  # fmt: skip
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


WANTED = {
    "app.py", "LICENSE", "README.md", "pyproject.toml", "requirements.txt", "ser/one.py", "ser/ui/two.py",
    "assets/a.png", "checkpoints/encoder/model.safetensors",
}  # fmt: skip


def test_a_space_is_made_and_gets_what_it_needs_and_nothing_else(server: Hub, checkout: Path) -> None:
    address = push("someone/voices", private=True, root=checkout, endpoint=server.url)
    assert address == f"{server.url}/spaces/someone/voices"
    (created,) = server.created
    assert (created["type"], created["sdk"], created["name"]) == ("space", "gradio", "voices")
    assert created["organization"] == "someone"
    assert set(server.files) == WANTED
    assert all(content == (checkout / name).read_bytes() for name, content in server.files.items())
    assert "Bearer hf_of_a_test" in server.tokens


def test_large_files_go_as_lfs_objects(server: Hub, checkout: Path) -> None:
    push("someone/voices", root=checkout, endpoint=server.url)
    assert WEIGHTS in server.objects.values()
    assert any(call.endswith("/info/lfs/objects/batch") for call in server.calls)


def test_a_file_that_is_gone_here_goes_there_and_others_of_the_space_stay(
    server: Hub, checkout: Path
) -> None:
    push("someone/voices", root=checkout, endpoint=server.url)
    assert server.deleted == ["ser/gone.py"]


def test_without_the_right_to_write_the_message_says_how_to_sign_in(server: Hub, checkout: Path) -> None:
    server.fault = "denied"
    with pytest.raises(PushError, match=r"did not take .*status 401.*hf auth login"):
        push("someone/voices", root=checkout, endpoint=server.url)


def test_a_hub_out_of_reach_is_said(server: Hub, checkout: Path) -> None:
    with pytest.raises(PushError, match=r"did not take the Space someone/voices \(ConnectError\)"):
        push("someone/voices", root=checkout, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["voices", "a/b/c", "../x", "", "a b/c", "https://x/y"])
def test_a_name_that_is_none_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", f"--space={name}", "--dry-run"]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"lacks app\.py"):
        contents(tmp_path)


def test_a_dry_run_lists_files_and_sizes_and_contacts_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", "--space", "someone/voices", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[1] for line in lines[:-1]]
    assert {"app.py", "ser/ui/page.py", "checkpoints/encoder/model.safetensors"} <= set(listed)
    assert not [name for name in listed if name.startswith((".", "tests/")) or "__pycache__" in name]
    assert lines[-1].endswith(f"bytes in {len(listed)} files would go to the Space someone/voices")


def test_all_of_the_repository_but_its_tests_is_sent() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this tree is not a git checkout")
    tracked = {name for name in listed.stdout.splitlines() if not name.startswith((".", "tests/"))}
    assert tracked <= {path.as_posix() for path in contents()}
