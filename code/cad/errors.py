"""Errors that a user can act on, and how a script ends on one: a single line on stderr and exit code 2."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Wrong input. The message names the value, what was expected, what was found and what to do."""


class MissingPathError(UserError, FileNotFoundError):
    """A path that was given, or is needed, does not exist."""


def run_script(main: Callable[[], None]) -> int:
    """Run a script's body and return its exit code: 0, 2 for a `UserError` (one line), 130 for Ctrl-C.

    Any other exception is a defect of this software and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        # One that comes out of a worker process has the worker's traceback before its own words.
        message = str(error).rsplit("Error: ", 1)[-1] if "in DataLoader worker" in str(error) else str(error)
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


def first_names(names: list[str], shown: int = 5) -> str:
    """The first few names and how many there are: `a, b, c, d, e and 3 more`."""
    listed = ", ".join(names[:shown])
    return f"{listed} and {len(names) - shown} more" if len(names) > shown else listed
