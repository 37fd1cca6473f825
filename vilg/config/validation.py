"""The check that the settings' dataclasses use in `__post_init__`."""

from vilg.errors import SettingsError


def require(condition: bool, message: str) -> None:
    """Raise SettingsError with `message` unless `condition` holds."""
    if not condition:
        raise SettingsError(message)
