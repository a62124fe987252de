"""`ser espeak`: unlabelled speech for a distillation, spoken by espeak-ng in many voices and languages.

In: a folder and a number of clips. Out: 22.05 kHz WAV files of the sentences in `assets/sentences.txt`, the same for a
seed and a version of espeak-ng. They carry no emotion and no label: a student learns from them what speech sounds like.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ser.errors import SettingsError
from ser.files import ASSETS

VOICES = [*(f"m{number}" for number in range(1, 9)), *(f"f{number}" for number in range(1, 6)), "croak", "whisper"]
VOICES += ["klatt", "klatt2", "klatt3", "klatt4"]
PITCH = (5, 95)  # espeak-ng's scale, 0 to 99
WORDS_A_MINUTE = (110, 230)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder of the clips")
    parser.add_argument("--count", type=int, default=1500, metavar="N", help="clips (default %(default)s)")
    parser.add_argument("--seed", type=int, default=40, help="seed of voices and sentences (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    written = sum(1 for _ in speak(args.out, args.count, args.seed))
    print(f"{args.out}: {written} clips in {len(sentences())} languages.")
    return 0


def sentences() -> dict[str, tuple[int, list[str]]]:
    """Each language with how often it is drawn and its sentences."""
    table: dict[str, tuple[int, list[str]]] = {}
    language = ""
    for line in (ASSETS / "sentences.txt").read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith(" "):
            table[language][1].extend(sentence.strip() for sentence in line.split("|"))
        else:
            language, weight = line.split()
            table[language] = int(weight), []
    return table


def speak(folder: Path, count: int, seed: int = 40) -> Iterator[Path]:
    """Write `count` clips named by language and number, one after the other; those already there are kept.

    Raises:
        SettingsError: espeak-ng is missing or fails, or `count` is not positive.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise SettingsError("espeak-ng is not installed. Install it: apt-get install espeak-ng")
    if count < 1:
        raise SettingsError(f"The number of clips must be at least 1, got {count}.")
    folder.mkdir(parents=True, exist_ok=True)
    generator, table = random.Random(seed), sentences()
    weights = [weight for weight, _ in table.values()]
    for index in range(count):
        language = generator.choices(list(table), weights)[0]
        words = [program, "-v", f"{language}+{generator.choice(VOICES)}"]
        words += ["-p", str(generator.randint(*PITCH)), "-s", str(generator.randint(*WORDS_A_MINUTE))]
        path = folder / f"{language}_{index:04d}.wav"
        sentence = generator.choice(table[language][1])
        if not path.exists():
            part = path.with_suffix(".part")
            done = subprocess.run([*words, "-w", str(part), sentence], capture_output=True, text=True)
            if done.returncode != 0:
                reason = done.stderr.strip()[:200] or done.returncode
                raise SettingsError(f"espeak-ng failed: {reason}. Is its language data there?")
            part.replace(path)
        yield path
