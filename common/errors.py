"""Errors that a user can mend: shown as one line, never as a traceback."""

import sys
import traceback
from collections.abc import Callable
from functools import wraps

from common.exercises import MESSAGE


class UserError(Exception):
    """Something the user typed or passed is wrong; the message says what, and what to do."""


def one_line_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Let a command line end with one line on stderr and exit code 2 on a UserError or an exercise not yet done."""

    @wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        except NotImplementedError as error:
            exercise = MESSAGE.match(str(error))
            if not exercise:
                raise
            stub = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{stub.filename}:{stub.lineno}"
            print(f"{error} is still to do: {place} (IMPLEMENTATION_GUIDE.md, section {exercise[1]})", file=sys.stderr)
        sys.exit(2)

    return wrapped
