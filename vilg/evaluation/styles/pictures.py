"""The pictures of the data set with what they show."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vilg.data.bad_samples import BadSamples
from vilg.data.decode import decode_image
from vilg.data.heldout import evenly_spaced
from vilg.data.images import center_crop
from vilg.data.shards import Shards, expand
from vilg.data.styles.catalogue import BY_NAME, Style
from vilg.data.styles.splits import COMBINATION, EMOJI, TRAIN
from vilg.errors import UserError
from vilg.progress import Progress

# The sets of pictures that are measured.
NEW, RECOLOURED = "held-out combinations", "held-out, same drawing in other colours in train"
UNSEEN, TRAINING = "held-out emoji", "training combinations"


@dataclass(frozen=True)
class StylePicture:
    """pixels: uint8 [size, size, 3]. names: of the emoji, the usual one first. has_sibling: whether the training data
    have the same drawing in other colours; None if it is not held out as a combination.
    """

    emoji: str
    names: tuple[str, ...]
    style: Style
    pixels: np.ndarray
    has_sibling: bool | None


def read_pictures(folder: Path, part: str, image_size: int) -> list[StylePicture]:
    """All pictures of a part of the data set that `vilg data emoji --styles` wrote to `folder`. Raises UserError."""
    shards = Shards(expand([str(folder / f"{part}-*.tar")]), BadSamples(0))
    pictures = []
    with Progress(part, len(shards)) as progress:
        for number in range(len(shards)):
            record = shards[number]
            try:
                description = json.loads(record.caption)
                emoji, names, style = description["emoji"], tuple(description["names"]), BY_NAME[description["style"]]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{record.name}: not a picture of `vilg data emoji --styles`") from None
            pixels = center_crop(decode_image(record), image_size)
            pictures.append(StylePicture(emoji, names, style, pixels, description.get("sibling_in_train")))
            progress.advance()
    return pictures


def read_sets(folder: Path, image_size: int, most: int = 0) -> tuple[list[StylePicture], dict[str, list[StylePicture]]]:
    """All pictures, and those that are measured: {name of the set: pictures}.

    At most `most` of each set (0: all), evenly spaced. There are as many training combinations as held-out ones.
    """
    train, combinations, emoji = (read_pictures(folder, part, image_size) for part in (TRAIN, COMBINATION, EMOJI))
    sets = {
        NEW: [picture for picture in combinations if not picture.has_sibling],
        RECOLOURED: [picture for picture in combinations if picture.has_sibling],
        UNSEEN: emoji,
        TRAINING: _evenly(train, len(combinations)),
    }
    return train + combinations + emoji, {name: _evenly(pictures, most) for name, pictures in sets.items()}


def _evenly(pictures: list[StylePicture], most: int) -> list[StylePicture]:
    return [pictures[number] for number in evenly_spaced(len(pictures), most)]
