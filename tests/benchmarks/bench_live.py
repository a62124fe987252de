"""How far live answers are behind a voice, beside the answer to the same recording as a whole.

In: the shipped model, headless Chromium with a recording in place of its microphone. Out: on standard output, how old
the oldest sound is that an answer on the screen lacks (the gap between two pieces and the trip of one), and how long
the whole recording takes.

    python tests/benchmarks/bench_live.py [--seconds 30]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser_support import Server, chromium, opened
from support import voice

from ser.files import SHIPPED_CLASSIFIER

RATE_HZ, WARM = 48_000, 2  # pieces that are not counted
WATCH = """() => {
  window.times = { sent: [], back: [], shown: [] };
  const note = (key, name) => {
    const plain = window.ser[name];
    window.ser[name] = (...words) => { window.times[key].push(performance.now()); return plain(...words); };
  };
  note("sent", "piece");
  note("back", "heard");
  new MutationObserver(() => window.times.shown.push(performance.now()))
    .observe(document.querySelector("#answer"), { childList: true, subtree: true, characterData: true });
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        microphone = Path(folder) / "microphone.wav"
        spoken = np.concatenate([voice(8, RATE_HZ, seed=seed) for seed in (3, 60, 120, 180)])
        soundfile.write(microphone, spoken, RATE_HZ, subtype="PCM_16")
        server = Server(Path(folder), SHIPPED_CLASSIFIER, OMP_NUM_THREADS="2")
        try:
            fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
            with chromium(*fake, f"--use-file-for-fake-audio-capture={microphone}") as browser:
                page = opened(browser, server.address, [], is_owner=False, permissions=["microphone"])
                page.wait_for_selector("#recognise")
                page.evaluate(WATCH)
                page.check("#live input")
                page.locator("#recording .record-button").click()
                page.wait_for_timeout(1_000 * args.seconds)
                page.click("#recognise")  # stops the recording and has all of it answered
                page.locator("#answer .elapsed").get_by_text("answered in").wait_for()
                whole = page.inner_text("#answer .elapsed")
                times = page.evaluate("window.times")
        finally:
            server.end()
    n = min(len(times["sent"]), len(times["back"]))
    sent = np.array(times["sent"][:n])
    shown = np.array([next((time for time in times["shown"] if time >= back), np.nan) for back in times["back"][:n]])
    behind_s = (shown[1:] - sent[:-1])[WARM:] / 1_000  # what was said after a piece is in the next answer
    middle, nine_in_ten, most = np.nanmedian(behind_s), np.nanpercentile(behind_s, 90), np.nanmax(behind_s)
    print(f"{n} answers in {args.seconds} s")
    print(
        f"behind the voice: {middle:.2f} s in the median, {nine_in_ten:.2f} s nine times in ten, {most:.2f} s at most"
    )
    print(f"the whole recording{whole}")


if __name__ == "__main__":
    main()
