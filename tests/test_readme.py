"""The README is true: its lines run, its numbers come from files the code wrote, its file map exists."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
import yaml
from support import ROOT

from ser.cli import COMMANDS, main
from ser.cli import _parser as parser_of
from ser.ui.settings import AppSettings

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
# https://huggingface.co/docs/hub/spaces-config-reference
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SPACE_KEYS = {
    "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "license",
    "short_description", "tags", "models", "preload_from_hub", "hf_oauth", "startup_duration_timeout",
}  # fmt: skip
CARD = ROOT / "checkpoints" / "classifier" / "model.json"


def requirement(name: str) -> str:
    """The line of requirements.txt that names a package."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return next(line for line in lines if re.match(rf"{name}\b", line))


def front_matter() -> dict[str, Any]:
    """What a Space reads from the head of README.md; types as YAML sees them."""
    return yaml.safe_load(README.split("---\n")[1])


def set_up_line(name: str) -> str:
    """The first line of the code block that the CI runs."""
    return re.search(rf"<!-- {name} -->\n```sh\n(.+)\n```", README)[1]


def test_the_two_set_up_lines_are_there():
    assert set_up_line("app") == "pip install -r requirements.txt && python app.py"
    assert set_up_line("tests").endswith("python -m pytest")


def test_the_space_runs_the_gradio_that_requirements_pin():
    matter = front_matter()
    assert requirement("gradio") == f"gradio=={matter['sdk_version']}"
    assert (ROOT / matter["app_file"]).is_file()
    assert matter["sdk"] == "gradio"
    assert matter["python_version"] in ("3.11", "3.12")  # text: YAML reads 3.10 without quotes as 3.1


def test_the_space_is_described_as_the_hub_wants_it():
    matter = front_matter()
    assert set(matter) <= SPACE_KEYS
    assert len(matter["short_description"]) <= 60
    assert matter["title"]
    assert not matter["emoji"].isascii()
    assert {matter["colorFrom"], matter["colorTo"]} <= COLOURS
    assert matter["license"] == "apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert all(re.fullmatch(r"[a-z0-9-]+", tag) for tag in matter["tags"])
    assert re.fullmatch(r"\d+[smh]", matter["startup_duration_timeout"])


def test_the_space_preloads_the_encoder_that_the_page_fetches_there():
    matter = front_matter()
    settings = AppSettings.from_environment({"SPACE_ID": "someone/space"})
    assert matter["models"] == [settings.hub_encoder]
    assert [entry.split()[0] for entry in matter["preload_from_hub"]] == matter["models"]


def test_torch_is_pinned_so_that_no_cuda_packages_are_pulled():
    assert requirement("torch") == "torch==2.13.0"


def test_every_command_that_readme_and_docs_name_exists():
    text = "\n".join(DOCS.values())
    code = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`(ser [^`]+)`", text))
    named = set(re.findall(r"^(?:[A-Z]+=\")?ser (\w+)", code, re.MULTILINE)) - {"COMMAND"}
    assert len(named) > 8
    assert named <= set(COMMANDS)


def test_the_commands_of_readme_and_docs_have_the_options_that_they_name():
    for text in DOCS.values():
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            lines = [line.split("  #")[0].rstrip('"') for line in block.replace("\\\n", " ").splitlines()]
            for words in (shlex.split(m[1]) for m in (re.match(r'(?:\S+=")?ser (.+)', one) for one in lines) if m):
                parser_of(words).parse_args(words)  # ends the test where it is bad usage


def test_every_file_of_the_map_and_every_link_exists():
    rows = re.findall(r"^\| (`[^|]+`) \|", README.split("## Layout")[1].split("## ")[0], re.MULTILINE)
    files = [ROOT / name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(files) > 12
    for path, text in DOCS.items():
        links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", text)
        files += [path.parent / link for link, _ in links]
        for link, place in (one for one in links if one[1]):
            target = (path.parent / link).read_text(encoding="utf-8") if link else text
            heads = [head.lower().replace(" ", "-") for head in re.findall(r"^#+ (.+)$", target, re.MULTILINE)]
            assert place in {re.sub(r"[^\w-]", "", head) for head in heads}, place
    assert not [file for file in files if not file.exists()]


def test_the_readme_says_what_is_promised_and_how_to_report_a_weakness():
    section = README.split("## Security")[1].split("## ")[0]
    for words in ("docs/page.md#what-is-promised", "Report a weakness privately", "pip-audit"):
        assert words in section


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.split()) <= 1300


def test_every_room_is_in_the_file_map():
    rooms = {f"ser/{path.parent.name}/" for path in (ROOT / "ser").glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}`" not in README} == set()


@pytest.mark.skipif(not CARD.exists(), reason="no model ships in this tree")
def test_the_results_are_those_of_the_shipped_models_file():
    scores = json.loads(CARD.read_text())["scores"]
    for key in ("wa", "uar", "macro_f1"):
        value, low, high = (f"{100 * scores[key][part]:.1f}" for part in ("value", "low", "high"))
        assert f"{value} [{low}, {high}]" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--" in capsys.readouterr().out
