"""How the page looks, and which language it speaks: theme, style sheet, and a script before anything else.

Gradio picks its language from the browser alone and knows nothing of right-to-left. The script, put first
into the page by `LanguageScript`, takes `?lang=fa` or `?lang=en` from the address, else the browser's
language, tells gradio, and sets the direction of the document before it is drawn. Nothing here comes from
another server.
"""

from __future__ import annotations

import gradio as gr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ser.ui.texts import TEXTS

LANGUAGE_SCRIPT = b"""<script>
(() => {
  const asked = new URLSearchParams(location.search).get("lang") || navigator.language || "en";
  const language = asked.toLowerCase().startsWith("fa") ? "fa" : "en";
  Object.defineProperty(navigator, "language", { get: () => language, configurable: true });
  document.documentElement.lang = language;
  document.documentElement.dir = language === "fa" ? "rtl" : "ltr";
})();
</script><style>#js-plotly-tester { direction: ltr; }</style>"""

LANGUAGE_LINKS = """<nav class="languages" aria-label="Language">
  <a href="?lang=en" lang="en" hreflang="en">English</a>
  <a href="?lang=fa" lang="fa" hreflang="fa" dir="rtl">فارسی</a>
</nav>"""

CSS = """
:root { --quiet: #475569; --upload: "UPLOAD_EN"; --record: "RECORD_EN"; }
html[dir="rtl"] { --upload: "UPLOAD_FA"; --record: "RECORD_FA"; }
.dark { --quiet: #cbd5e1; }
.gradio-container { max-width: 1080px !important; margin-inline: auto !important; }
.gradio-container .html-container { padding: 0 !important; }
.languages { display: flex; gap: 1rem; justify-content: flex-end; font-size: 0.95rem; }
.languages a { color: var(--link-text-color); padding: 0.35rem 0; }
html[lang="en"] .languages a[lang="en"], html[lang="fa"] .languages a[lang="fa"] {
  color: var(--body-text-color) !important; font-weight: 600; text-decoration: none;
}
#languages { margin-bottom: calc(-1 * var(--layout-gap)); }
#heading { margin-bottom: calc(-0.5 * var(--layout-gap)); }
#heading h1 { margin: 0; font-size: 1.7rem; line-height: 1.3; }
#intro p { margin: 0; max-width: 75ch; color: var(--quiet); }
#privacy p, #model-note p, #elapsed { margin: 0; font-size: 0.9rem; color: var(--quiet); }
#elapsed { margin-top: -0.5rem; }
#examples { gap: 0.5rem; flex-wrap: wrap; align-items: center; }
#examples button { flex: 0 1 auto; min-width: 5rem; }
#label .confidence-set, #label .label { font-family: var(--font); }
footer .divider { display: none; }

@media (max-width: 480px) { .tab-container button { padding-inline: 0.6rem !important; } }

/* The two sources of a recording, named and not only drawn. */
#recording .source-selection { gap: 0.75rem; height: auto; padding-block: 0.4rem; }
#recording .source-selection button {
  display: inline-flex; align-items: center; gap: 0.4rem; width: auto; height: auto; padding: 0.35rem 0.7rem;
  color: var(--quiet);
}
#recording .source-selection button.selected { color: var(--color-accent); }
#recording .source-selection button svg { width: 1.1rem; height: 1.1rem; }
#recording .source-selection button::after { font-size: 0.9rem; }
#recording .source-selection button:first-of-type::after { content: var(--upload); }
#recording .source-selection button:last-of-type::after { content: var(--record); }
/* Gradio shows its Share button, which uploads to huggingface.co, whatever `buttons` says. */
#recording .top-panel > button:not(:last-child) { display: none; }

.box {
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 1rem 1.25rem;
}
.box h2 { margin: 0; font-size: 1.6rem; line-height: 1.3; }
.box p { margin: 0.3rem 0 0; }
.box .facts { color: var(--quiet); }
.box.waiting { color: var(--quiet); border-style: dashed; }
.box.sure { border-inline-start: 5px solid #009e73; }
.box.unsure { border-inline-start: 5px solid #e69f00; }
.box.problem { border-inline-start: 5px solid #d55e00; }

/* An earlier answer stays when a later recording is refused, but steps back. */
.gradio-container:has(#answer .problem) :is(#label, #timeline) { opacity: 0.4; }

/* The training tabs. */
.quiet, .quiet p { margin: 0; font-size: 0.9rem; color: var(--quiet); max-width: 75ch; }
.quiet a { color: var(--link-text-color); padding: 0; margin: 0; text-decoration: underline; }
.box.running { border-inline-start: 5px solid #0072b2; }
.box progress { width: 100%; height: 0.6rem; margin-top: 0.6rem; accent-color: #0072b2; }
iframe.dashboard {
  display: block; width: 100%; height: 48rem; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-lg); background: #fff;
}
/* The charts' grey reads on white and black, less so on the slate of a dark block. */
.dark :is(#timeline, .chart) :is(.infolayer, [class^="xaxislayer"], [class^="yaxislayer"]) text {
  fill: #cbd5e1 !important;
}
.downloads { margin: 0; display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; align-items: center; }
.downloads a { color: var(--link-text-color); padding: 0.35rem 0; text-decoration: underline; }
.fold-table { overflow-x: auto; contain: inline-size; }
.fold-table table { width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
.fold-table :is(table, thead, tr, th, td) { border: 0 !important; background: none; }
.fold-table td { white-space: nowrap; }
.fold-table :is(th, td) { padding: 0.3rem 0.4rem !important; text-align: end; }
.fold-table tbody tr { border-top: 1px solid var(--border-color-primary) !important; }
.fold-table :is(th:first-child) { text-align: start; }
.fold-table tbody tr:last-child :is(th, td) { font-weight: 600; }

/* Gradio marks every block as left-to-right. */
html[dir="rtl"] .gradio-container, html[dir="rtl"] .gradio-container [dir="ltr"] {
  direction: rtl; text-align: start;
}
html[dir="rtl"] .gradio-container :is(code, pre, #timeline, .chart, #recording .component-wrapper) {
  direction: ltr; unicode-bidi: isolate;
}
html[dir="rtl"] :is(#recording, #label, #timeline, .chart) > label { left: auto; right: 0; }
html[dir="rtl"] #recording .top-panel { right: auto; left: 0; }
html[dir="rtl"] label[data-testid="block-label"] > span { margin-right: 0; margin-left: var(--size-2); }
html[dir="rtl"] .box p { text-align: right; }
html[dir="rtl"] .slider_input_container { direction: ltr; }
html[dir="rtl"] .icon-wrap { right: auto !important; left: var(--size-5); }
html[dir="rtl"] label:has(> input[type="radio"]) { gap: 0.5rem; }
#card :is(p, li, h1, h2, h3) { unicode-bidi: plaintext; text-align: start; }
:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
"""
for name in ("upload", "record"):
    CSS = CSS.replace(f"{name.upper()}_EN", TEXTS[name].en).replace(f"{name.upper()}_FA", TEXTS[name].fa)


def theme() -> gr.themes.Base:
    """Gradio's default theme with the fonts that the visitor's machine has."""
    fonts = ["system-ui", "Segoe UI", "Tahoma", "sans-serif"]
    return gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"]
    )


class LanguageScript:
    """Puts the language script first into every HTML page that the server sends."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"].rstrip("/") != "":
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = b""

        async def collect(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            page = body.replace(b"<head>", b"<head>" + LANGUAGE_SCRIPT, 1)
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            start["headers"] = [*headers, (b"content-length", str(len(page)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, collect)
