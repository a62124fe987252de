"""`python -m ser`: the command line."""

from ser.cli import main
from ser.runtime import let_threads_sleep

let_threads_sleep()
raise SystemExit(main())
