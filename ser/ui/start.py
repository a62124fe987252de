"""Start the page: `python app.py` or `ser serve`, then open the address that it prints.

Settings come from environment variables, see `ser.ui.settings`. Ends cleanly on Ctrl-C and on SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from ser.errors import SerError, SettingsError
from ser.runtime import let_threads_sleep
from ser.ui.gradio_private import import_gradio
from ser.ui.logs import set_up_logs
from ser.ui.recordings import private_folder
from ser.ui.settings import AppSettings


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    set_up_logs()
    let_threads_sleep()
    try:
        settings = AppSettings.from_environment(os.environ)
        uploads = private_folder()
        import_gradio(uploads)
        from ser.ui.page import serve

        serve(settings, uploads)
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
        return 0
    except SerError as error:
        print(f"ser: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    return 0


def run() -> NoReturn:
    """Show the page, and end the process with it."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # an answer that a thread is still computing would make the interpreter's own end abort


if __name__ == "__main__":
    run()
