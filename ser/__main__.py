"""`python -m ser`: the command line."""

from ser.cli import main

raise SystemExit(main())
