"""Unlabelled speech for a distillation, spoken by espeak-ng in many voices and languages.

In: a folder and a number of clips. Out: 22.05 kHz WAV files of sentences of our own, the same for a seed and a
version of espeak-ng. They carry no emotion and no label: a student learns from them what speech sounds like.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ser.errors import SettingsError

VARIANTS = (
    *(f"m{number}" for number in range(1, 9)), *(f"f{number}" for number in range(1, 6)),
    "croak", "whisper", "klatt", "klatt2", "klatt3", "klatt4",
)  # fmt: skip
PITCH = (5, 95)  # espeak-ng's scale, 0 to 99
WORDS_A_MINUTE = (110, 230)

# Language -> how often it is drawn, and its sentences.
SENTENCES: dict[str, tuple[int, tuple[str, ...]]] = {
    "fa": (
        4,
        (
            "امروز هوا خیلی خوب است و ما به پارک می رویم",
            "چرا به من نگفتی که او رفته است",
            "من هیچ وقت این روز را فراموش نمی کنم",
            "لطفا در را ببند و آرام صحبت کن",
            "باورم نمی شود که تو برنده شدی",
            "از این همه سر و صدا خسته شده ام",
            "برادرم دیشب از سفر برگشت",
            "کتاب روی میز کنار پنجره است",
            "این چه کاری بود که کردی",
            "فردا صبح زود باید به ایستگاه برسیم",
        ),
    ),
    "de": (
        4,
        (
            "Heute ist das Wetter schön und wir gehen in den Park",
            "Warum hast du mir das nicht gesagt",
            "Die Bücher liegen auf dem Schrank neben dem Fenster",
            "In einer Stunde fährt der letzte Zug nach Hause",
            "Ich kann gar nicht glauben, dass du gewonnen hast",
            "Bitte mach die Tür zu und sprich leiser",
            "Am Abend kommt mein Bruder von der Reise zurück",
        ),
    ),
    "en": (
        2,
        (
            "The children are playing near the old bridge",
            "Why did you never tell me about the letter",
            "Please close the window before the rain begins",
            "I cannot believe that you have won the race",
            "Tomorrow morning we have to be at the station early",
        ),
    ),
    "tr": (
        2,
        (
            "Bugün hava çok güzel ve parka gidiyoruz",
            "Neden bana onun gittiğini söylemedin",
            "Kitap pencerenin yanındaki masada duruyor",
            "Lütfen kapıyı kapat ve sessiz konuş",
            "Kazandığına inanamıyorum",
        ),
    ),
    "pl": (
        1,
        (
            "Dzisiaj jest piękna pogoda i idziemy do parku",
            "Dlaczego mi o tym nie powiedziałeś",
            "Książka leży na stole przy oknie",
            "Nie mogę uwierzyć, że wygrałeś",
        ),
    ),
    "it": (
        1,
        (
            "Oggi il tempo è bello e andiamo al parco",
            "Perché non me lo hai detto prima",
            "Il libro è sul tavolo vicino alla finestra",
            "Non posso credere che tu abbia vinto",
        ),
    ),
    "ur": (
        1,
        (
            "آج موسم بہت اچھا ہے اور ہم باغ جا رہے ہیں",
            "تم نے مجھے کیوں نہیں بتایا",
            "کتاب میز پر کھڑکی کے پاس ہے",
        ),
    ),
    "fr": (
        1,
        (
            "Aujourd'hui il fait beau et nous allons au parc",
            "Pourquoi ne me l'as-tu pas dit",
            "Le livre est sur la table près de la fenêtre",
        ),
    ),
    "ru": (
        1,
        (
            "Сегодня хорошая погода, и мы идём в парк",
            "Почему ты мне этого не сказал",
            "Книга лежит на столе у окна",
        ),
    ),
}


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
    generator = random.Random(seed)
    languages, weights = list(SENTENCES), [weight for weight, _ in SENTENCES.values()]
    for index in range(count):
        language = generator.choices(languages, weights)[0]
        words = [program, "-v", f"{language}+{generator.choice(VARIANTS)}"]
        words += ["-p", str(generator.randint(*PITCH)), "-s", str(generator.randint(*WORDS_A_MINUTE))]
        path = folder / f"{language}_{index:04d}.wav"
        sentence = generator.choice(SENTENCES[language][1])
        if not path.exists():
            _run([*words, "-w", str(path.with_suffix(".part")), sentence])
            path.with_suffix(".part").replace(path)
        yield path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SettingsError(
            f"espeak-ng failed: {done.stderr.strip()[:200] or done.returncode}. Is its language data there?"
        )
