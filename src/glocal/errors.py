"""The one exception a user's mistake raises: a single line saying what is wrong, where, and what to do."""


class UsageError(ValueError):
    """Bad input or options. The command line prints its message as one line and exits with code 2."""
