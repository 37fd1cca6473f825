"""Exceptions for errors that a user can correct."""


def os_reason(error: OSError) -> str:
    """What the operating system reports, in lower case, for the end of a message."""
    return (error.strerror or str(error)).lower()


class UserError(Exception):
    """Bad input. The message is one line that says what is wrong and where.

    The command line prints it without a traceback and exits with `exit_code`. Every other exception is a defect of vilg
    and keeps its traceback.
    """

    exit_code = 1


class SettingsError(UserError):
    """A setting that does not exist, has the wrong type, or contradicts another setting."""

    exit_code = 2
