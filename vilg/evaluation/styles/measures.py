"""Draws held-out combinations and describes their pictures, and counts what is right.

A drawing is right in emoji or style if the real picture nearest to it is, in a feature space that is not the model's
own. Beside the held-out combinations stand: training combinations; drawings of held-out combinations judged by each
other's captions (what chance gives); and real pictures passed through the image tokenizer (what is possible at most).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vilg.data.images import to_unit
from vilg.data.styles.captions import parse, prompt
from vilg.evaluation.styles.gallery import Gallery, Judgement
from vilg.evaluation.styles.pictures import NEW, StylePicture

SHUFFLED, CEILING = "held-out combinations, captions shuffled", "real pictures through the image tokenizer"


@dataclass(frozen=True)
class Model:
    """What is measured. draw: texts -> images [N, 3, H, W] in [0, 1]. describe: such images -> captions. reconstruct:
    images -> images, through the image tokenizer.
    """

    draw: Callable[[Sequence[str]], np.ndarray]
    describe: Callable[[np.ndarray], list[str]]
    reconstruct: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Result:
    """One set of pictures: what was drawn from their captions, and written about them.

    captions: None if only drawings are judged. name, style: bool [N], whether captions are right in them.
    """

    wanted: list[StylePicture]
    drawings: np.ndarray
    judgement: Judgement
    captions: list[str] | None = None
    name: np.ndarray = field(default_factory=lambda: np.empty(0))
    style: np.ndarray = field(default_factory=lambda: np.empty(0))

    def shares(self) -> dict[str, float]:
        """The number of pictures and the shares that are right."""
        judged = self.judgement
        right = {"emoji": judged.emoji, "style": judged.style, "both": judged.both}
        if self.captions is not None:
            right |= {"caption_name": self.name, "caption_style": self.style, "caption_both": self.name & self.style}
        return {"pictures": len(self.wanted)} | {name: float(np.mean(value)) for name, value in right.items()}


def measure(model: Model, gallery: Gallery, sets: dict[str, list[StylePicture]]) -> dict[str, Result]:
    """{name of the set: result} of all `sets` that are not empty, and of the two controls of the set NEW."""
    results = {name: _measure_set(model, gallery, pictures) for name, pictures in sets.items() if pictures}
    new = results[NEW]
    shifted = new.wanted[1:] + new.wanted[:1]
    results[SHUFFLED] = Result(shifted, new.drawings, gallery.judge_nearest(new.judgement.nearest, shifted))
    through = model.reconstruct(_images(new.wanted))
    results[CEILING] = Result(new.wanted, through, gallery.judge(through, new.wanted))
    return results


def _measure_set(model: Model, gallery: Gallery, wanted: list[StylePicture]) -> Result:
    drawings = model.draw([prompt(picture.names[0], picture.style) for picture in wanted])
    captions = model.describe(_images(wanted))
    found = [parse(caption) for caption in captions]
    return Result(
        wanted,
        drawings,
        gallery.judge(drawings, wanted),
        captions,
        np.array([name in picture.names for (name, _), picture in zip(found, wanted)]),
        np.array([style is picture.style for (_, style), picture in zip(found, wanted)]),
    )


def _images(pictures: list[StylePicture]) -> np.ndarray:
    return to_unit(np.stack([picture.pixels for picture in pictures]))


def table(results: dict[str, Result]) -> str:
    """The shares as text."""
    columns = ["pictures", "emoji", "style", "both", "caption_name", "caption_style", "caption_both"]
    titles = ["N", "emoji", "style", "both", "name", "style", "both"]
    width = max(map(len, results))
    lines = [
        f"{'':{width}}  {'':5}  {'drawings: right':^20}  {'captions: right':^20}",
        f"{'':{width}}  {titles[0]:>5}  " + "  ".join(f"{title:>5}" for title in titles[1:]),
    ]
    for name, result in results.items():
        shares = result.shares()
        cells = [f"{shares[column]:5.0%}" if column in shares else " " * 5 for column in columns[1:]]
        lines.append(f"{name:{width}}  {shares['pictures']:5}  " + "  ".join(cells))
    return "\n".join(line.rstrip() for line in lines)
