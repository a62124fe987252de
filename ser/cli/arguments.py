"""Options that several commands share, and the settings that they describe."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ser.errors import SettingsError

if TYPE_CHECKING:
    from ser.training.crossval import CrossvalSettings

Settings = TypeVar("Settings")
DEFAULT_ENCODER = "ntu-spml/distilhubert"
# Words of `--reduce`: the setting that takes the number, and what else is set.
REDUCTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "average": ("averaged_frames", {}),
    "pca": ("components", {"components_by": "variance"}),
    "prune": ("components", {"components_by": "validation"}),
}
REDUCED = {name for setting, others in REDUCTIONS.values() for name in (setting, *others)}


def add_corpus_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add `--corpus` and how to read it."""
    group = parser.add_argument_group("corpus")
    group.add_argument(
        "--corpus", nargs="+", type=Path, required=required, metavar="DIR", help="corpus folders or tables"
    )
    add_label_arguments(group)
    group.add_argument("--emotions", help="keep only these, for instance anger,neutral,sadness; 'six' for ShEMO's six")
    group.add_argument(
        "--without-speakers", metavar="NAMES", help="leave these out, for instance RAVDESS:11,RAVDESS:12"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint` and `--encoder`: what answers, as `ser.load` takes it."""
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR|ONNX", help="a trained model (default: the shipped one)"
    )
    parser.add_argument("--encoder", metavar="SRC", help="folder or hub id, if not where the checkpoint says")


def add_label_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--labels` and `--metadata`: which of ShEMO's two label sets, and where the corrected one is."""
    parser.add_argument(
        "--labels", choices=("original", "corrected"), default="original", help="which of ShEMO's labels"
    )
    parser.add_argument("--metadata", type=Path, metavar="TABLE", help="CSV or JSON with ShEMO's labels")


def add_encoder_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add `--encoder`, `--layer`, `--cache`, `--threads`, `--device`."""
    group = parser.add_argument_group("encoder")
    if several:
        group.add_argument(
            "--encoder", nargs="+", default=[DEFAULT_ENCODER], metavar="SRC",
            help="hub ids, folders or 'shipped' (default %(default)s)",
        )  # fmt: skip
    else:
        group.add_argument(
            "--encoder",
            default=DEFAULT_ENCODER,
            metavar="SRC",
            help="hub id, folder, or 'shipped' (default %(default)s)",
        )
    group.add_argument("--layer", type=int, help="hidden layer (default: the last)")
    add_cache(group)
    add_machine_arguments(group)
    add_sharing(group)


def add_cache(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--cache`, a folder or an address of fsspec's."""
    parser.add_argument(
        "--cache", type=place, metavar="PLACE",
        help="folder of cached features, or an address such as s3://bucket/cache (default: SER_CACHE or ~/.cache)",
    )  # fmt: skip


def add_sharing(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--processes` and `--scheduler`, to which work is shared out."""
    parser.add_argument(
        "--processes", type=positive, default=1, metavar="N",
        help="share the work out to N processes of this machine (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--scheduler", metavar="ADDRESS",
        help="have the workers of this Dask scheduler work, tcp://host:8786 or the file that it wrote; they share the "
        "recordings' folders, the cache and the run folder",
    )  # fmt: skip


def add_machine_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--threads` and `--device`, which `ser.cli.main` applies before the command runs."""
    parser.add_argument("--threads", type=positive, metavar="N", help="threads to compute with (default: one per core)")
    parser.add_argument("--device", help="where to compute, for instance cuda (default: SER_DEVICE or cpu)")


def add_split_arguments(
    parser: argparse.ArgumentParser,
    splits: Sequence[str] = ("speakers", "loso", "corpora", "random"),
    takes_file: bool = True,
) -> None:
    """Add `--split`, where there is a choice, `--folds`, `--validation-share` and `--folds-file`."""
    group = parser.add_argument_group("folds")
    parser.set_defaults(split=splits[0])
    if len(splits) > 1:
        group.add_argument(
            "--split", choices=splits,
            help="speakers: speaker-disjoint folds; loso: one speaker left out at a time; corpora: one corpus left out "
            f"at a time; random: ignores speakers, to show the leak (default {splits[0]})",
        )  # fmt: skip
    group.add_argument("--folds", type=int, default=5, help="number of folds (default %(default)s)")
    group.add_argument(
        "--validation-share", type=float, default=0.10,
        help="share of the utterances to validate on, from the training speakers (default %(default)s)",
    )  # fmt: skip
    if takes_file:
        group.add_argument(
            "--folds-file", type=Path, metavar="FILE",
            help="folds that `ser folds --out` or somebody else wrote, in place of the options above",
        )  # fmt: skip


def crossval_settings(args: argparse.Namespace) -> CrossvalSettings:
    """Folds, classifier and training as the arguments describe them."""
    from ser.classifier.settings import ClassifierSettings
    from ser.training.settings import CrossvalSettings, TrainingSettings

    classifier, training = settings_of(ClassifierSettings, args), settings_of(TrainingSettings, args)
    listed = str(args.folds_file.resolve()) if args.folds_file else ""
    split = (args.split, args.folds, args.validation_share, args.seed)
    return CrossvalSettings(classifier, training, *split, folds_file=listed)


def place(text: str) -> Path | str:
    """A folder, or an address, whose slashes a path would not keep; folders are absolute, as workers find them."""
    if not text:
        raise argparse.ArgumentTypeError("it names no folder")
    return text if "://" in text else Path(text).resolve()


def positive(text: str) -> int:
    """A positive whole number from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def add_settings(parser: argparse.ArgumentParser, *kinds: type, leave_out: Collection[str] = ()) -> None:
    """Add one option for each field of settings dataclasses, with its sentence from the docstring and its default."""
    for kind in kinds:
        group = parser.add_argument_group(kind.__name__.removesuffix("Settings").lower())
        hints, sentences = get_type_hints(kind), attribute_sentences(kind)
        if REDUCED & hints.keys():
            add_reduce(group)
        for entry in (one for one in fields(kind) if one.name not in (*REDUCED, *leave_out)):
            hint, default = hints[entry.name], entry.default
            flag = f"--{entry.name.replace('_', '-')}"
            text = f"{sentences.get(entry.name, '')} (default {default})".strip().replace("%", "%%")
            if hint is bool:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
            elif get_origin(hint) is Literal:
                group.add_argument(flag, choices=get_args(hint), default=default, help=text)
            else:
                group.add_argument(flag, type=hint, default=default, help=text)


class _Gathered(argparse.Action):
    """What an option says each time that it is given, in place of its default."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        known = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if known is self.default else known), *values])


def add_reduce(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--reduce`: less of each recording for the classifier."""
    parser.add_argument(
        "--reduce", nargs="+", type=reduction, action=_Gathered, default=[], metavar="HOW=N",
        help="average=N takes the average of N neighbouring frames in their place; pca=N the first N principal "
        "components of the training speakers' frames; prune=N the N dimensions that validation speakers need most",
    )  # fmt: skip


def reduction(text: str) -> str:
    """A word of `--reduce`, checked."""
    how, _, n = text.partition("=")
    if how not in REDUCTIONS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(f'{one}=N' for one in REDUCTIONS)}")
    positive(n)
    return text


def reduced_settings(words: Sequence[str]) -> dict[str, int | str]:
    """The fields of `ClassifierSettings` that `--reduce` describes.

    Raises:
        SettingsError: two of the words are about the same.
    """
    settings: dict[str, int | str] = {}
    for word in words:
        how, _, n = word.partition("=")
        name, others = REDUCTIONS[how]
        if name in settings:
            raise SettingsError(f"--reduce takes average=N and one of pca=N and prune=N, got {' '.join(words)}.")
        settings |= {name: int(n), **others}
    return settings


def reduce_words(settings: Mapping[str, Any]) -> list[str]:
    """The words of `--reduce` for settings: `reduced_settings` the other way round."""
    words = [f"average={settings['averaged_frames']}"] if settings.get("averaged_frames", 1) > 1 else []
    if n := settings.get("components"):
        words.append(f"{'prune' if settings.get('components_by') == 'validation' else 'pca'}={n}")
    return words


def attribute_sentences(kind: type) -> dict[str, str]:
    """The sentence that a dataclass' docstring has for each attribute, under `Attributes:`."""
    sentences: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(kind.__doc__ or "").partition("Attributes:")[2].splitlines():
        head = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if head:
            names = head[1].split(", ")
            sentences |= dict.fromkeys(names, head[2].strip())
        elif line.startswith("     "):
            sentences |= {name: f"{sentences[name]} {line.strip()}" for name in names}
    return {name: sentence.rstrip(".") for name, sentence in sentences.items()}


def settings_of(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """The settings dataclass that the arguments describe; a field without an argument keeps its default."""
    given = vars(args) | reduced_settings(getattr(args, "reduce", ()))
    return kind(**{entry.name: given[entry.name] for entry in fields(kind) if entry.name in given})  # type: ignore[arg-type]


def add_check(parser: argparse.ArgumentParser) -> None:
    """`--no-check`."""
    parser.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True,
        help="check all recordings first; skip silent, truncated and duplicate ones (see `corpus`)",
    )  # fmt: skip
