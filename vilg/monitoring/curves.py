"""Curves of metrics as text."""

import math

import uniplot

_ASCII = str.maketrans("┌┐└┘─│", "++++-|")


def points(lines: list[dict[str, float]], name: str, most: int) -> tuple[list[float], list[float]]:
    """(steps, values) of a metric: means of at most `most` equal groups of lines. Values that are not finite are left
    out.
    """
    found = [(line["step"], line[name]) for line in lines if name in line and math.isfinite(line[name])]
    size = max(1, math.ceil(len(found) / most))
    groups = [found[start : start + size] for start in range(0, len(found), size)]
    return (
        [sum(step for step, _ in group) / len(group) for group in groups],
        [sum(value for _, value in group) / len(group) for group in groups],
    )


def curve(lines: list[dict[str, float]], name: str, width: int, height: int, ascii_only: bool = False) -> str:
    """A plot of a metric over steps, `width` columns and `height` + 4 rows with its title, frame and labels."""
    labels = 9  # columns for the labels of values
    steps, values = points(lines, name, 2 * width)
    if not values:
        return f"{name}: no value yet"
    last = next(line[name] for line in reversed(lines) if name in line)
    return uniplot.plot_to_string(
        ys=values,
        xs=steps,
        title=f"{name} {last:.5g}",
        width=max(10, width - labels - 2),
        height=height,
        line_length_hard_cap=max(14, width),
        lines=True,
        character_set="ascii" if ascii_only else "braille",
        x_gridlines=[],
        y_gridlines=[],
    ).translate(_ASCII if ascii_only else {})


def default_curves(lines: list[dict[str, float]]) -> list[str]:
    """The loss, a held-out metric if there is one, the gradient norm and the speed."""
    names = dict.fromkeys(name for line in reversed(lines[-1000:]) for name in line)
    heldout = [name for name in names if name.startswith("heldout_")][:1]
    speed = [name for name in names if name.endswith("_per_second")][:1]
    return [name for name in ("loss", *heldout, "grad_norm", *speed) if name in names]
