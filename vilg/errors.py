"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Bad input, said in one line: what is wrong and where.

    The command line prints the message without a traceback and exits with `exit_code`; every other exception is a
    defect of vilg and keeps its traceback.
    """

    exit_code = 1


class SettingsError(UserError):
    """A setting that does not exist, has the wrong type, or contradicts another."""

    exit_code = 2
