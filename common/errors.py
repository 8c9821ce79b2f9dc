"""Errors that a user can mend: shown as one line, never as a traceback."""

import sys
from collections.abc import Callable
from functools import wraps


class UserError(Exception):
    """Something the user typed or passed is wrong; the message says what, and what to do."""


def one_line_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Let a command line end on a UserError with one line on stderr and exit code 2."""

    @wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped
