"""The README is true: its lines run, its numbers come from files the code wrote, its file map exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ser.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = ROOT / "checkpoints" / "classifier" / "model.json"


def requirement(name: str) -> str:
    """The line of requirements.txt that names a package."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return next(line for line in lines if re.match(rf"{name}\b", line))


def front_matter() -> dict[str, str]:
    block = README.split("---\n")[1]
    return dict(line.split(": ", 1) for line in block.splitlines() if re.match(r"\w+: ", line))


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
    assert matter["python_version"].strip('"') in ("3.11", "3.12")
    assert len(matter["short_description"]) <= 60


def test_torch_is_pinned_so_that_no_cuda_packages_are_pulled():
    assert requirement("torch") == "torch==2.13.0"


def test_every_command_that_the_readme_names_exists():
    named = set(re.findall(r"python -m ser (\w+)", README)) - {"COMMAND"}
    assert named
    assert named <= set(COMMANDS)


def test_every_file_of_the_map_and_every_link_exists():
    rows = re.findall(r"^\| (`[^|]+`) \|", README.split("## Files")[1].split("## ")[0], re.MULTILINE)
    files = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert len(files) > 20
    missing = [name for name in files + links if not (ROOT / name).exists()]
    assert not missing


def test_every_module_is_in_the_file_map():
    modules = {f"ser/{path.name}" for path in (ROOT / "ser").glob("[!_]*.py")}
    small = {"ser/errors.py", "ser/labels.py", "ser/compat.py"}
    assert {module for module in modules - small if f"`{module}`" not in README} == set()


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
