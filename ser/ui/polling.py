"""Let a page ask the server for news only while the tab that shows them is open."""

from __future__ import annotations

import gradio as gr
from gradio.context import Context as Building


def while_shown(timer: gr.Timer) -> gr.Tab:
    """Run a timer only while the tab that is being built is shown; returns that tab.

    Call it inside `gr.Tab`, and make the timer with `active=False`.
    """
    tab = Building.block
    while not isinstance(tab, gr.Tab):
        if tab is None:
            raise RuntimeError("while_shown is called inside a gr.Tab")
        tab = tab.parent
    tabs = tab.parent
    place = [child for child in tabs.children if isinstance(child, gr.Tab)].index(tab)

    def switch(shown: gr.SelectData) -> gr.Timer:
        return gr.Timer(active=shown.index == place)

    tabs.select(switch, None, timer, api_visibility="private", queue=False, show_progress="hidden")
    return tab
