"""Groups of parameters for which a gradient norm is reported."""

from collections.abc import Iterable

_RANGES = 4  # groups of blocks


def layer_groups(names: Iterable[str]) -> dict[str, str]:
    """{name of a parameter: its group}. A group is a direct part of the model, for example `image_head`.

    The blocks form at most four groups of consecutive blocks: `blocks_0-11`, `blocks_12-23`, .. of 48 blocks.
    """
    names = list(names)
    blocks = 1 + max((index for name in names if (index := _block(name)) is not None), default=-1)
    return {
        name: name.partition(".")[0] if (index := _block(name)) is None else _range(index, blocks) for name in names
    }


def _block(name: str) -> int | None:
    """The index of the block that the parameter belongs to."""
    part, _, rest = name.partition(".")
    index = rest.partition(".")[0]
    return int(index) if part == "blocks" and index.isdigit() else None


def _range(index: int, blocks: int) -> str:
    size = -(-blocks // _RANGES)
    first = index // size * size
    last = min(first + size, blocks) - 1
    return f"blocks_{first}" if last == first else f"blocks_{first}-{last}"
