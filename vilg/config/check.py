"""What the settings' dataclasses check themselves with."""

from vilg.errors import SettingsError


def require(condition: bool, message: str) -> None:
    if not condition:
        raise SettingsError(message)
