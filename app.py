"""Start the page: `python app.py`, then open the address that it prints. See `ser.ui.settings` for its settings."""

from ser.ui.start import run

if __name__ == "__main__":
    run()
