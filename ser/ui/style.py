"""How the page looks, and the script that runs before anything else of it: `static/page.css` and `static/page.js`.

Nothing here comes from another server.
"""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

from ser.ui.context import translated
from ser.ui.gradio_private import script_address
from ser.ui.texts import TEXTS, Texts

STATIC = Path(__file__).with_name("static")
CSS = (STATIC / "page.css").read_text(encoding="utf-8")
LANGUAGE_LINKS = f"""<nav class="languages" aria-label="Language">
  <button type="button" class="theme" aria-label='{translated("ser_theme")}'></button>
  <a href="?lang=en" lang="en" hreflang="en">English</a>
  <a href="?lang=fa" lang="fa" hreflang="fa" dir="rtl">فارسی</a>
</nav>"""


def script() -> str:
    """The script with its texts, as an HTML element."""
    texts = {key: text._asdict() for key, text in TEXTS.items() if key.startswith(("js_", "ser_answer_here"))}
    code = (STATIC / "page.js").read_text(encoding="utf-8")
    names = {key: text._asdict() for key, text in Texts.read(STATIC.with_name("controls.toml")).items()}
    for name, table in {"TEXTS": texts, "NAMES": names}.items():
        code = code.replace(f"{name} = {{}}", f"{name} = {json.dumps(table, ensure_ascii=False)}", 1)
    for name, script in {"CHARTS": "PlotlyPlot", "CORE": "core"}.items():
        code = code.replace(f'{name} = ""', f"{name} = {json.dumps(script_address(script))}", 1)
    return f"<script>{code}</script><style>#js-plotly-tester {{ direction: ltr; }}</style>"


def theme() -> gr.themes.Base:
    """Gradio's default theme with the fonts that the visitor's machine has, and colours that can be read."""
    fonts = ["system-ui", "Segoe UI", "Tahoma", "sans-serif"]
    look = gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    return look.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )
