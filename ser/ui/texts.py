"""Every sentence of the page, in English and Persian.

`TEXTS` is the one table: a key, the English, the Persian. Fixed texts of the page are looked up by the
browser (`gr.I18n`, see page.py); texts that are made while an answer is computed are looked up here with
`say`. A tab in its own file may keep a table of the same form and give it to `page.py` through its
`TEXTS`.
"""

# ruff: noqa: E501  sentences stay whole
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

LANGUAGES = ("en", "fa")
PERSIAN_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")


class Text(NamedTuple):
    """One sentence in both languages; `{names}` in braces are filled in."""

    en: str
    fa: str

    def say(self, language: str, **values: object) -> str:
        """The sentence in a language, its names filled in; Persian sentences get Persian digits."""
        if language != "fa":
            return self.en.format(**values)
        numbers = {
            name: str(value).translate(PERSIAN_DIGITS).replace(".", "٫")
            if isinstance(value, int | float)
            else value
            for name, value in values.items()
        }
        return self.fa.format(**numbers)


EMOTION_TEXTS: dict[str, Text] = {
    "anger": Text("anger", "خشم"),
    "fear": Text("fear", "ترس"),
    "happiness": Text("happiness", "شادی"),
    "neutral": Text("neutral", "خنثی"),
    "sadness": Text("sadness", "غم"),
    "surprise": Text("surprise", "تعجب"),
}

TEXTS: dict[str, Text] = {
    **{f"ser_emotion_{label}": text for label, text in EMOTION_TEXTS.items()},
    "ser_heading": Text("What emotion is in this voice?", "این صدا چه احساسی دارد؟"),
    "ser_intro": Text(
        "Record a few seconds of speech or choose a file. You get the likely emotion, how sure the model is, and how "
        "the emotion moves through the recording.",
        "چند ثانیه صحبت کنید یا یک فایل صوتی انتخاب کنید تا احساس محتمل، میزان اطمینان مدل و تغییر احساس در طول صدا را ببینید.",
    ),
    "ser_tab_recognise": Text("Recognise", "تشخیص"),
    "ser_recording": Text("Recording", "صدای ضبط‌شده"),
    "upload": Text("Upload file", "انتخاب فایل"),
    "record": Text("Record audio", "ضبط با میکروفون"),
    "ser_examples": Text("Or try an example; the speaker was asked for:", "یا یک نمونه را امتحان کنید؛ از گوینده خواسته شده بود:"),
    "ser_recognise": Text("Recognise the emotion", "تشخیص احساس"),
    "ser_privacy": Text(
        "Your recording serves this answer only. It is deleted from the server one minute after the answer, ten "
        "minutes after the upload at the latest, and never logged.",
        "صدای شما فقط برای همین پاسخ به کار می‌رود. یک دقیقه پس از پاسخ و حداکثر ده دقیقه پس از بارگذاری از سرور پاک "
        "می‌شود و جایی ثبت نمی‌شود.",
    ),
    "ser_answer_here": Text("The answer appears here.", "پاسخ اینجا نمایش داده می‌شود."),
    "ser_probabilities": Text("Probability of each emotion", "احتمال هر احساس"),
    "ser_timeline": Text("How the emotion moves", "تغییر احساس در طول زمان"),
    "ser_card": Text("About the model: training, scores, limits", "درباره‌ی مدل: آموزش، نتایج و محدودیت‌ها"),
    # Said while an answer is computed.
    "sure": Text(
        "The model is sure: in tests on other speakers, answers it was sure of were right {percent} % of the time.",
        "مدل مطمئن است: در آزمون با گویندگان دیگر، {percent}٪ از پاسخ‌هایی که مدل به آن‌ها مطمئن بود درست بوده‌اند.",
    ),
    "uncalibrated": Text(
        "This model was never calibrated, so it cannot say how far to trust the probabilities.",
        "این مدل واسنجی نشده است و نمی‌تواند بگوید تا چه حد می‌توان به احتمال‌ها اعتماد کرد.",
    ),
    "percent": Text("{percent} %", "{percent}٪"),
    "unsure": Text("Unsure — perhaps {emotion}", "نامطمئن — شاید {emotion}"),
    "unsure_means": Text(
        "The highest probability, {percent} %, is below the {threshold} % from which the model counts as sure. Take the "
        "answer as a guess: several emotions fit about equally well.",
        "بالاترین احتمال، {percent}٪، از حد اطمینان مدل که {threshold}٪ است کمتر است. این پاسخ را فقط یک حدس بدانید: "
        "چند احساس تقریباً به یک اندازه محتمل‌اند.",
    ),
    "length": Text("{seconds} s of sound", "{seconds} ثانیه صدا"),
    "elapsed": Text("answered after {seconds} s", "پاسخ پس از {seconds} ثانیه"),
    "seconds": Text("seconds", "ثانیه"),
    "probability": Text("probability", "احتمال"),
    "model_answers": Text(
        "Answers come from {model} on the encoder `{encoder}`, layer {layer}.",
        "پاسخ‌ها از {model} با رمزگذار `{encoder}`، لایه‌ی {layer}، می‌آیند.",
    ),
    "model_shipped": Text("the model that ships with the project", "مدل همراه پروژه"),
    "ser_model_loading": Text(
        "The model is being loaded; the first answer takes a few seconds more.",
        "مدل در حال بارگذاری است؛ نخستین پاسخ چند ثانیه بیشتر طول می‌کشد.",
    ),
    "model_pending": Text(
        "Meanwhile {model} is being fetched and takes over as soon as it is here.",
        "در این میان {model} در حال دریافت است و به محض آماده شدن جایگزین می‌شود.",
    ),
    "hub_loading": Text(
        "`{encoder}` is being fetched from the Hugging Face hub for the training tabs. It answers nothing by itself: a "
        "model has to be trained on it first.",
        "`{encoder}` برای زبانه‌های آموزش از هاب Hugging Face در حال دریافت است. خودش پاسخی نمی‌دهد: ابتدا باید مدلی روی آن "
        "آموزش داده شود.",
    ),
    "hub_ready": Text(
        "`{encoder}` is here from the Hugging Face hub: the training tabs offer it, and a model trained on it can answer.",
        "`{encoder}` از هاب Hugging Face دریافت شده است: زبانه‌های آموزش آن را پیشنهاد می‌کنند و مدلی که روی آن آموزش دیده باشد "
        "می‌تواند پاسخ دهد.",
    ),
    "hub_failed": Text(
        "`{encoder}` could not be fetched from the Hugging Face hub, so nothing can be trained on it yet; answers do not "
        "need it. Reason: {reason}",
        "`{encoder}` از هاب Hugging Face دریافت نشد، پس هنوز نمی‌توان روی آن آموزش داد؛ پاسخ‌ها به آن نیاز ندارند. "
        "دلیل: {reason}",
    ),
    "model_fallback": Text(
        "**The configured model could not be loaded, so the shipped one answers.** Reason: {reason}",
        "**مدل تنظیم‌شده بارگذاری نشد و مدل همراه پروژه پاسخ می‌دهد.** دلیل: {reason}",
    ),
    "model_none": Text(
        "**No model could be loaded, so nothing can be recognised.** Reason: {reason}",
        "**هیچ مدلی بارگذاری نشد و تشخیص ممکن نیست.** دلیل: {reason}",
    ),
    "card_scores": Text("Measured scores", "نتایج اندازه‌گیری‌شده"),
    "card_no_scores": Text("No scores were measured for this model.", "برای این مدل نتیجه‌ای اندازه‌گیری نشده است."),
    "card_measure": Text("Measure", "معیار"),
    "card_value": Text("Value", "مقدار"),
    "card_interval": Text("95 % interval", "بازه‌ی ۹۵٪"),
    "wa": Text("Accuracy (WA)", "دقت (WA)"),
    "uar": Text("Mean recall of the emotions (UAR)", "میانگین بازخوانی احساس‌ها (UAR)"),
    "macro_f1": Text("Macro F1", "F1 کلان"),
    "ece": Text("Calibration error (ECE)", "خطای واسنجی (ECE)"),
    "card_people": Text(
        "Over {n_utterances} utterances of {n_speakers} speakers.", "روی {n_utterances} گفتار از {n_speakers} گوینده."
    ),
    # What goes wrong.
    "no_recording": Text("Record something or choose a file first.", "ابتدا صدایی ضبط کنید یا فایلی انتخاب کنید."),
    "deleted": Text(
        "This recording has already been deleted from the server. Record it again or choose the file again.",
        "این صدا پیش‌تر از سرور پاک شده است. دوباره ضبط کنید یا فایل را دوباره انتخاب کنید.",
    ),
    "busy": Text(
        "That was more than {limit} recordings in a minute. Wait {seconds} s and try again; your recording is kept.",
        "در یک دقیقه بیش از {limit} صدا فرستاده شد. {seconds} ثانیه صبر کنید و دوباره بفرستید؛ صدای شما نگه داشته شده است.",
    ),
    "failed": Text(
        "Something went wrong here, not with your recording. Try again; the operator finds the reason in the log.",
        "مشکلی در سرور پیش آمد و ایراد از صدای شما نیست. دوباره امتحان کنید؛ دلیل آن در گزارش سرور آمده است.",
    ),
    # Persian for the kinds of AudioError; the English comes from the error itself, which knows more.
    "audio_not_audio": Text("", "این فایل به‌عنوان صدا خوانده نشد. قالب‌های WAV، FLAC، OGG، Opus، MP3 و AIFF پذیرفته می‌شوند."),
    "audio_unreadable": Text("", "این فایل آسیب دیده است یا خوانده نمی‌شود. دوباره آن را ذخیره کنید."),
    "audio_empty": Text("", "این فایل هیچ صدایی ندارد. دوباره ضبط کنید یا فایل دیگری انتخاب کنید."),
    "audio_silent": Text("", "در این فایل فقط سکوت است. روشن بودن میکروفون را بررسی کنید و دوباره ضبط کنید."),
    "audio_too_short": Text("", "این صدا خیلی کوتاه است؛ دست‌کم ۰٫۱ ثانیه لازم است. صدای طولانی‌تری ضبط کنید."),
    "audio_too_long": Text("", "این صدا بیش از حد مجاز طولانی است. آن را به بخش‌های کوتاه‌تر تقسیم کنید."),
    "audio_nan": Text("", "این فایل مقدارهای نامعتبر دارد. آن را دوباره از منبع ذخیره کنید."),
    "audio_truncated": Text("", "این فایل ناقص است و بخشی از آن وجود ندارد. دوباره آن را بارگذاری کنید."),
}  # fmt: skip


def say(key: str, language: str, **values: object) -> str:
    """A sentence of the table in a language, its names filled in."""
    return TEXTS[key].say(language, **values)


def emotion_name(label: str, language: str) -> str:
    """The name of an emotion; labels of other corpora stay as they are."""
    text = EMOTION_TEXTS.get(label)
    if text is None:
        return label
    return text.fa if language == "fa" else text.en


def fixed_texts(tables: Iterable[Mapping[str, Text]]) -> dict[str, dict[str, str]]:
    """The tables as the browser wants them: language -> key -> text."""
    return {
        language: {key: getattr(text, language) for table in tables for key, text in table.items()}
        for language in LANGUAGES
    }
