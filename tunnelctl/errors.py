"""How a subcommand fails: an exception with one line for people, and the exit code that goes with it.

0 done; 1 failed; 2 wrong use; 3 not reachable; 4 refused.
"""

OK, FAILED, WRONG_USE, NOT_REACHABLE, REFUSED = range(5)


class CommandError(Exception):
    """A subcommand failed; `str()` is one line that names the thing, the place and the remedy."""

    exit_code = FAILED


class UsageError(CommandError):
    """The command line asked for something that cannot be."""

    exit_code = WRONG_USE


class NotReachableError(CommandError):
    """The server did not answer."""

    exit_code = NOT_REACHABLE


class RefusedError(CommandError):
    """The server, or the state of things, does not allow it."""

    exit_code = REFUSED
