"""Every sentence of the tab Cross-validate, in English and Persian; the form is that of texts.py."""

from __future__ import annotations

from ser.ui.corpora import DEMO_TEXT
from ser.ui.owner import TEXTS as OWNER_TEXTS
from ser.ui.texts import Text

TEXTS: dict[str, Text] = {
    "ser_owner_password": OWNER_TEXTS["ser_owner_password"],
    "ser_tab_crossvalidate": Text("Cross-validate", "اعتبارسنجی متقابل"),
    "ser_cv_intro": Text(
        "How well would a model recognise people it has never heard? The speakers are divided into "
        "folds; each fold is tested by a model that was trained on other speakers. The run goes on when "
        "you close this page.",
        "مدل احساس کسانی را که هرگز نشنیده چقدر درست تشخیص می‌دهد؟ گویندگان به چند بخش تقسیم می‌شوند و "
        "هر بخش با مدلی آزموده می‌شود که با گویندگان دیگر آموزش دیده است. با بستن صفحه، اجرا ادامه "
        "می‌یابد.",
    ),
    "ser_cv_corpus": Text("Corpus", "پیکره"),
    "ser_cv_encoder": Text("Encoder", "رمزگذار"),
    "ser_cv_preset": Text("Settings", "تنظیمات"),
    "ser_cv_all_settings": Text("Change the settings", "تغییر تنظیمات"),
    "ser_cv_start": Text("Start", "آغاز"),
    "ser_cv_stop": Text("Stop", "توقف"),
    "ser_cv_continue": Text("Continue", "ادامه"),
    "ser_cv_use": Text("Use this model", "استفاده از این مدل"),
    "ser_cv_run": Text("Run", "اجرا"),
    "ser_cv_curves": Text("Loss of each fold and their mean", "خطای هر بخش و میانگین آن‌ها"),
    "ser_cv_matrices": Text(
        "Confusion matrix of each fold and of all",
        "ماتریس درهم‌ریختگی هر بخش و همه‌ی بخش‌ها",
    ),
    "ser_cv_max_epochs": Text("Epochs at most", "بیشینه‌ی دوره‌ها"),
    "ser_cv_patience": Text(
        "Patience in epochs (0: never stop early)",
        "شکیبایی به دوره (۰: بدون توقف زودهنگام)",
    ),
    "ser_cv_learning_rate": Text("Learning rate", "نرخ یادگیری"),
    "ser_cv_l2": Text("L2 of the input kernels", "ضریب L2 وزن‌های ورودی"),
    "ser_cv_base_units": Text("Units of the first GRU layer", "واحدهای لایه‌ی نخست GRU"),
    "ser_cv_final_units": Text("Units of the last GRU layer", "واحدهای لایه‌ی آخر GRU"),
    "ser_cv_gru_layers": Text("GRU layers", "لایه‌های GRU"),
    "ser_cv_dropout": Text("Dropout", "حذف تصادفی"),
    "ser_cv_folds": Text("Folds", "تعداد بخش‌ها"),
    "ser_cv_seed": Text("Seed", "بذر تصادفی"),
    "ser_cv_optimizer": Text("Optimizer", "بهینه‌ساز"),
    # Choices
    "ser_cv_demo": DEMO_TEXT,
    "ser_cv_paper": Text("The paper's best configuration", "بهترین پیکربندی مقاله"),
    "ser_cv_quick": Text("Quick, for the demonstration corpus", "سریع، برای پیکره‌ی نمایشی"),
    "latest": Text("The latest run", "آخرین اجرا"),
    # How a run stands
    "no_run": Text("No run yet. Press Start.", "هنوز اجرایی نیست. «آغاز» را بزنید."),
    "preparing": Text("Preparing", "آماده‌سازی"),
    "preparing_means": Text(
        "The recordings are read and encoded; the first time this takes longest.",
        "صداها خوانده و رمزگذاری می‌شوند؛ بار نخست بیشتر طول می‌کشد.",
    ),
    "training": Text("Epoch {epoch} of at most {most}", "دوره‌ی {epoch} از حداکثر {most}"),
    "early": Text(
        "{stopped} of {folds} folds have stopped",
        "{stopped} بخش از {folds} بخش به پایان رسیده‌اند",
    ),
    "testing": Text("Testing on the speakers kept aside", "آزمون با گویندگان کنارگذاشته"),
    "training the final model": Text("Training the model for use", "آموزش مدل نهایی"),
    "finished": Text("Finished", "پایان یافت"),
    "stopped": Text("Stopped", "متوقف شد"),
    "failed_means": Text("Continue tries again.", "«ادامه» دوباره امتحان می‌کند."),
    "stopped_means": Text(
        "Continue goes on where it was.", "«ادامه» اجرا را از همان‌جا از سر می‌گیرد."
    ),
    "failed": Text("Failed", "ناموفق ماند"),
    "elsewhere": Text("Not started from this page", "از این صفحه آغاز نشده است"),
    "scores_now": Text(
        "Validation speakers, {clips} clips: accuracy {wa}\u00a0%, mean recall (UAR) {uar}\u00a0%",
        "گویندگان اعتبارسنجی، {clips} صدا: دقت {wa}٪، میانگین بازخوانی (UAR) {uar}٪",
    ),
    "scores_test": Text(
        "Test speakers, {clips} clips: accuracy {wa}\u00a0%{wa_range}, "
        "mean recall (UAR) {uar}\u00a0%{uar_range}",
        "گویندگان آزمون، {clips} صدا: دقت {wa}٪{wa_range}، میانگین بازخوانی (UAR) {uar}٪{uar_range}",
    ),
    "range": Text(" [{low} – {high}]", " [{low} – {high}]"),
    "intervals": Text(
        "In brackets: 95 % intervals, by bootstrap over speakers.",
        "در کروشه: بازه‌ی ۹۵٪ با بازنمونه‌گیری گویندگان.",
    ),
    "matrices_now": Text(
        "Validation speakers of each fold at its latest epoch: rows are true, columns are answered.",
        "گویندگان اعتبارسنجی هر بخش در آخرین دوره: سطرها احساس درست و ستون‌ها پاسخ مدل‌اند.",
    ),
    "matrices_test": Text(
        "Test speakers of each fold, heard once, by the model of its best epoch: rows are true, columns "
        "are answered.",
        "گویندگان آزمون هر بخش، تنها یک بار، با مدل بهترین دوره: سطرها احساس درست و ستون‌ها پاسخ "
        "مدل‌اند.",
    ),
    "fold": Text("Fold", "بخش"),
    "epoch": Text("Epoch", "دوره"),
    "train_loss": Text("Training loss", "خطای آموزش"),
    "validation_loss": Text("Validation loss", "خطای اعتبارسنجی"),
    "validation_wa": Text("Accuracy", "دقت"),
    "validation_uar": Text("UAR", "UAR"),
    "best_epoch": Text("Best epoch", "بهترین دوره"),
    "mean": Text("mean", "میانگین"),
    "downloads": Text("Download:", "دریافت:"),
    "temporary": Text(
        "Runs are kept in a temporary folder here: download what you want to keep.",
        "اجراها در پوشه‌ای موقت نگه داشته می‌شوند: آنچه را می‌خواهید دریافت کنید.",
    ),
    "demo_note": Text(
        "The demonstration corpus is small, acted and not Persian: its figures show how the page works.",
        "پیکره‌ی نمایشی کوچک، بازیگری‌شده و غیرفارسی است؛ ارقام آن تنها کار صفحه را نشان می‌دهد.",
    ),
    # What a press led to
    "working": Text("One moment …", "یک لحظه …"),
    "starting": Text(
        "One moment …",
        "یک لحظه …",
    ),
    "started": Text(
        "Started. It goes on when you close this page.",
        "آغاز شد. با بستن صفحه هم ادامه می‌یابد.",
    ),
    "continued": Text("It goes on where it was.", "از همان‌جا که بود ادامه می‌یابد."),
    "stop_done": Text("Stopped.", "متوقف شد."),
    "not_running": Text("This run is not running.", "این اجرا در جریان نیست."),
    "not_continued": Text(
        "Only a run that was stopped or failed can go on.",
        "فقط اجرای متوقف یا ناموفق را می‌توان ادامه داد.",
    ),
    "no_model": Text(
        "This run has no model yet; it is trained after the last test.",
        "این اجرا هنوز مدلی ندارد؛ پس از آزمون پایانی آموزش می‌بیند.",
    ),
    "in_use": Text(
        "The tab Recognise now answers with the model of this run ({title}), for every visitor, until "
        "the server is started again.",
        "از این پس بخش «تشخیص» برای همه‌ی بازدیدکنندگان با مدل این اجرا ({title}) پاسخ می‌دهد، تا زمانی "
        "که سرور دوباره راه‌اندازی شود.",
    ),
    # In the charts
    "loss": Text("loss", "خطا"),
    "chart_epoch": Text("epoch", "دوره"),
    "train, mean of the folds": Text("training, mean of the folds", "آموزش، میانگین بخش‌ها"),
    "validation, mean of the folds": Text("validation, mean of the folds", "اعتبارسنجی، میانگین بخش‌ها"),
    "best epoch of a fold": Text("best epoch of a fold", "بهترین دوره‌ی هر بخش"),
    "hover_cell": Text(
        "true: {true}<br>answered: {answered}<br>{count} of {total} ({share}%)",
        "درست: {true}<br>پاسخ: {answered}<br>{count} از {total} ({share}٪)",
    ),
    "hover_fold": Text(
        "fold {fold}, {part}, epoch %{{x}}: %{{y:.3f}}", "بخش {fold}، {part}، دوره‌ی %{{x}}: %{{y:.3f}}"
    ),
    "hover_mean": Text(
        "{part}, epoch %{{x}}: %{{y:.3f}}, mean of %{{customdata}} folds",
        "{part}، دوره‌ی %{{x}}: %{{y:.3f}}، میانگین %{{customdata}} بخش",
    ),
    "hover_best": Text(
        "fold %{{customdata[0]}}: best epoch %{{x}}, stopped after %{{customdata[1]}}",
        "بخش %{{customdata[0]}}: بهترین دوره %{{x}}، توقف پس از %{{customdata[1]}}",
    ),
    "hover_train": Text("training", "آموزش"),
    "hover_validation": Text("validation", "اعتبارسنجی"),
    "fold_title": Text("fold {number}", "بخش {number}"),
    "all_folds": Text("all folds", "همه‌ی بخش‌ها"),
}  # fmt: skip


def say(key: str, language: str, **values: object) -> str:
    """A sentence of this tab in a language."""
    return TEXTS[key].say(language, **values)
