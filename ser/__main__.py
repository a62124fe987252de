"""`python -m ser`: the command line."""

from ser.cli import console

raise SystemExit(console())
