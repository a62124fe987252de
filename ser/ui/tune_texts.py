"""Every sentence of the tab Tune, in English and Persian; the form is that of texts.py."""

# ruff: noqa: E501  sentences stay whole

from __future__ import annotations

from ser.ui.crossvalidate_texts import TEXTS as CROSSVALIDATE_TEXTS
from ser.ui.texts import Text

SHARED = (
    "ser_owner_password", "ser_cv_corpus", "ser_cv_encoder", "ser_cv_stop", "ser_cv_continue", "ser_cv_demo",
    "ser_cv_patience", "ser_cv_max_epochs", "preparing", "preparing_means", "finished", "stopped", "stopped_means",
    "failed", "failed_means", "working", "starting", "started", "continued", "stop_done", "demo_note", "temporary",
    "elsewhere", "testing",
)  # fmt: skip

TEXTS: dict[str, Text] = {
    **{key: CROSSVALIDATE_TEXTS[key] for key in SHARED},
    "ser_tab_tune": Text("Tune", "تنظیم خودکار"),
    "ser_tune_intro": Text(
        "Which settings recognise people best whom the model has never heard? Optuna tries configurations, each on "
        "all folds at once, and drops the poor ones early. It looks at validation speakers only; the best "
        "configuration is tested once, at the end. The search goes on when you close this page.",
        "کدام تنظیمات احساس کسانی را که مدل هرگز نشنیده بهتر تشخیص می‌دهد؟ اپتونا پیکربندی‌ها را هم‌زمان روی همه‌ی "
        "بخش‌ها می‌آزماید و ضعیف‌ها را زود کنار می‌گذارد. جست‌وجو تنها گویندگان اعتبارسنجی را می‌بیند و بهترین "
        "پیکربندی در پایان یک بار آزموده می‌شود. با بستن صفحه، جست‌وجو ادامه می‌یابد.",
    ),
    "ser_tune_trials": Text("Trials in all", "تعداد آزمایش‌ها"),
    "ser_tune_minutes": Text("Time limit in minutes", "محدودیت زمان به دقیقه"),
    "ser_tune_sampler": Text("How configurations are chosen", "روش انتخاب پیکربندی"),
    "ser_tune_tpe": Text("TPE (the paper)", "TPE (مقاله)"),
    "ser_tune_cmaes": Text("CMA-ES", "CMA-ES"),
    "ser_tune_start": Text("Start tuning", "آغاز تنظیم"),
    "ser_tune_use": Text("Train and use best", "آموزش و استفاده از بهترین"),
    "ser_tune_study": Text("Study", "جست‌وجو"),
    "latest": Text("The latest study", "آخرین جست‌وجو"),
    "no_run": Text("No study yet. Press Start tuning.", "هنوز جست‌وجویی نیست. «آغاز تنظیم» را بزنید."),
    "searching": Text("{done} of {wanted} trials are finished", "{done} آزمایش از {wanted} آزمایش پایان یافته است"),
    "best": Text(
        "Best so far: trial {number}, {value} % of the validation clips (mean of the folds)",
        "بهترین تا کنون: آزمایش {number}، {value}٪ از صداهای اعتبارسنجی (میانگین بخش‌ها)",
    ),
    "no_best": Text("No trial has come to its end yet.", "هنوز هیچ آزمایشی به پایان نرسیده است."),
    "counts": Text(
        "complete {complete}, pruned {pruned}, running {running}, waiting {waiting}, failed {fail}",
        "کامل {complete}، هرس‌شده {pruned}، در حال اجرا {running}، در انتظار {waiting}، ناموفق {fail}",
    ),
    "now": Text("Trial {number}: epoch {epoch}, {value} %", "آزمایش {number}: دوره‌ی {epoch}، {value}٪"),
    "time_left": Text("No trial starts after {minutes} more minutes.", "پس از {minutes} دقیقه‌ی دیگر آزمایشی آغاز نمی‌شود."),
    "time_up": Text("Time is up; the trial that runs is finished.", "زمان پایان یافت؛ آزمایش در حال اجرا کامل می‌شود."),
    "test_scores": Text(
        "Test speakers, heard once by the best trial's models: accuracy {wa} %, mean recall (UAR) {uar} %",
        "گویندگان آزمون، تنها یک بار، با مدل‌های بهترین آزمایش: دقت {wa}٪، میانگین بازخوانی (UAR) {uar}٪",
    ),
    "read_only": Text(
        "Below is Optuna's dashboard; here it can only be read.",
        "در پایین داشبورد اپتونا است که در اینجا تنها خواندنی است.",
    ),
    "open_alone": Text(
        '<a href="/dashboard" target="_blank">Open the dashboard in a window of its own</a>',
        '<a href="/dashboard" target="_blank">باز کردن داشبورد در پنجره‌ی جداگانه</a>',
    ),
    "not_running": Text("This study is not running.", "این جست‌وجو در جریان نیست."),
    "not_continued": Text(
        "Only a study that was stopped or failed can go on.",
        "فقط جست‌وجوی متوقف یا ناموفق را می‌توان ادامه داد.",
    ),
    "still_running": Text(
        "This study is still searching. Stop it first, or wait until it ends.",
        "این جست‌وجو هنوز در جریان است. آن را متوقف کنید یا تا پایان صبر کنید.",
    ),
    "no_model": Text(
        "This study has no completed trial yet, so there is nothing to train.",
        "این جست‌وجو هنوز آزمایش کاملی ندارد، پس چیزی برای آموزش نیست.",
    ),
    "training_best": Text(
        "The best trial's configuration is being trained and tested. The tab Recognise answers with it when that is "
        "done.",
        "پیکربندی بهترین آزمایش در حال آموزش و آزمون است. پس از پایان، بخش «تشخیص» با آن پاسخ می‌دهد.",
    ),
    "in_use": Text(
        "The tab Recognise now answers with the best model of this study ({title}), for every visitor, until the "
        "server is started again.",
        "از این پس بخش «تشخیص» برای همه‌ی بازدیدکنندگان با بهترین مدل این جست‌وجو ({title}) پاسخ می‌دهد، تا زمانی که "
        "سرور دوباره راه‌اندازی شود.",
    ),
    # Parameters
    "base_units": Text("units of the first GRU layer", "واحدهای لایه‌ی نخست GRU"),
    "final_units": Text("units of the last GRU layer", "واحدهای لایه‌ی آخر GRU"),
    "gru_layers": Text("GRU layers", "لایه‌های GRU"),
    "learning_rate": Text("learning rate", "نرخ یادگیری"),
    "dropout": Text("dropout", "حذف تصادفی"),
    "l2": Text("L2", "L2"),
    "optimizer": Text("optimizer", "بهینه‌ساز"),
}  # fmt: skip


def say(key: str, language: str, **values: object) -> str:
    """A sentence of this tab in a language."""
    return TEXTS[key].say(language, **values)
