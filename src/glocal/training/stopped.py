"""Why training ends before its time."""


class TrainingStopped(Exception):
    """Training ended before its time: diverged, collapsed or interrupted. The message is for the person."""


class Interrupted(TrainingStopped):
    """Ended by Ctrl-C or a termination signal, after saving."""
