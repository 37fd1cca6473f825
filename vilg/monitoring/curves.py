"""Curves of metrics as text."""

from collections.abc import Sequence

import numpy as np
import uniplot

_ASCII = str.maketrans("┌┐└┘─│", "++++-|")
_LABELS = 9  # columns for the labels of values


def thin(values: Sequence[float], most: int) -> np.ndarray:
    """The means of at most `most` groups of consecutive values, of equal size except the last."""
    size = max(1, -(-len(values) // most))
    return np.array([np.mean(values[start : start + size]) for start in range(0, len(values), size)])


def curve(
    name: str, steps: Sequence[int], values: Sequence[float], width: int, height: int, ascii_only: bool = False
) -> str:
    """A plot of a metric over steps, `width` columns and `height` + 4 rows with its title, frame and labels."""
    if not len(values):
        return f"{name}: no value yet"
    return uniplot.plot_to_string(
        ys=thin(values, 2 * width),
        xs=thin(steps, 2 * width),
        title=f"{name} {values[-1]:.5g}",
        width=max(10, width - _LABELS - 2),
        height=height,
        line_length_hard_cap=max(14, width),
        lines=True,
        character_set="ascii" if ascii_only else "braille",
        x_gridlines=[],
        y_gridlines=[],
    ).translate(_ASCII if ascii_only else {})


def default_curves(lines: list[dict[str, float]]) -> list[str]:
    """The loss, a held-out metric if there is one, the gradient norm and the speed."""
    names = dict.fromkeys(name for line in reversed(lines) for name in line)
    heldout = [name for name in names if name.startswith("heldout_")][:1]
    speed = [name for name in names if name.endswith("_per_second")][:1]
    return [name for name in ("loss", *heldout, "grad_norm", *speed) if name in names]
