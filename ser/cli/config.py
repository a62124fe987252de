"""`--config FILE` and `--like RUN`: options of a command from a file, or from an older run."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ser.cli.arguments import REDUCED, reduce_words
from ser.errors import SettingsError

RENAMED = {"n_folds": "folds"}  # fields of the settings that their options call otherwise


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--like`."""
    group = parser.add_argument_group("options from elsewhere", "those on the command line come before them")
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML or JSON with names of options and their values"
    )
    group.add_argument("--like", type=Path, metavar="RUN", help="the settings of a run folder")


def apply_config(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Make what `--config` and `--like` name the defaults of a command's parser.

    Raises:
        SettingsError: they cannot be read, or name what is no option.
    """
    options = {action.dest: action for action in parser._actions if action.option_strings}
    if "config" not in options:
        return
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_config_arguments(first)
    given = first.parse_known_args(words)[0]
    values: dict[str, Any] = {}
    if given.like:
        old = _settings_of_run(given.like)
        values |= {name: value for name, value in old.items() if name in options}
        if "split" not in options and old.get("split", "speakers") != "speakers":
            raise SettingsError(f"{given.like} has --split {old['split']}, which this command has not.")
    if given.config:
        values |= {name.replace("-", "_"): value for name, value in _read(given.config).items()}
    for name, value in values.items():
        if name not in options or name in ("config", "like", "help"):
            hint = " Give reduce a list such as average=2." if name in REDUCED else ""
            raise SettingsError(f"{given.config}: this command has no option {name}.{hint}")
        parser.set_defaults(**{name: _converted(options[name], value)})
        options[name].required = False


def _converted(action: argparse.Action, value: Any) -> Any:
    """A value as the option would have it from the command line."""
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        if not isinstance(value, bool):
            raise SettingsError(f"{action.dest} is true or false, got {value!r}.")
        return value
    several = action.nargs in ("+", "*")
    convert = action.type if callable(action.type) else str
    try:
        converted = [convert(str(one)) for one in (value if isinstance(value, list) else [value])]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise SettingsError(f"{action.dest} cannot be {value!r}.") from error
    if action.choices and not set(converted) <= set(action.choices):
        raise SettingsError(f"{action.dest} is one of {', '.join(map(str, action.choices))}, got {value!r}.")
    return converted if several else converted[0]


def _settings_of_run(folder: Path) -> dict[str, Any]:
    """The settings of a run, flat."""
    content = _read(folder / "run.json").get("settings")
    if not isinstance(content, Mapping):
        raise SettingsError(f"{folder} holds no settings of a run: --like takes the folder of ser crossval.")
    flat = {**content, **content.get("classifier", {}), **content.get("training", {})}
    flat["reduce"] = reduce_words(flat)
    return {RENAMED.get(name, name): value for name, value in flat.items() if not isinstance(value, Mapping)}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read: {error}. Give a TOML or JSON file.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold names and values of options, not {type(content).__name__}.")
    return content
