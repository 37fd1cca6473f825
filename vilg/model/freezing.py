"""Freezes parameters by their names."""

import difflib
from fnmatch import fnmatchcase

from paddle import nn

from vilg.config import require


def freeze(model: nn.Layer, patterns: list[str]) -> None:
    """Freeze the parameters whose structured names match one of `patterns` (train.freeze).

    In a pattern, * stands for any characters, dots included, ? for one character and [..] for one of several. A frozen
    parameter has no gradient, no optimizer states and no weight decay. Raises SettingsError for a pattern that matches
    no parameter, and if nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        matching = [value for name, value in parameters.items() if fnmatchcase(name, pattern)]
        require(
            bool(matching),
            f"train.freeze: {pattern} matches no parameter; the nearest: {_nearest(pattern, parameters)}",
        )
        for value in matching:
            value.stop_gradient = True
    require(
        not all(value.stop_gradient for value in parameters.values()),
        f"train.freeze={patterns}: nothing is left to train",
    )


def _nearest(pattern: str, names) -> str:
    """Up to three names that resemble the pattern."""
    near = difflib.get_close_matches(pattern, names, 3, cutoff=0)
    return ", ".join(near)
