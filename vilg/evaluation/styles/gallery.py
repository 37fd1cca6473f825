"""All real pictures: which of them is a drawing nearest to?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vilg.data.styles.equal_pictures import equal_pairs, reduced
from vilg.evaluation.perceptual_features import PerceptualFeatures, stored_features
from vilg.evaluation.styles.pictures import StylePicture


@dataclass(frozen=True)
class Judgement:
    """For each of N drawings: the number of the nearest real picture, and whether this one shows the wanted emoji, is
    in the wanted style, and both. Arrays [N].
    """

    nearest: np.ndarray
    emoji: np.ndarray
    style: np.ndarray
    both: np.ndarray


class Gallery:
    """Real pictures with their features.

    A picture that is equal to the eye to others (vilg/data/styles/equal_pictures.py) counts as each of them.
    """

    def __init__(self, pictures: Sequence[StylePicture], features: PerceptualFeatures, file: Path | None = None):
        """file: keeps the features of the pictures, whose computation takes minutes. It is written if it does not exist
        or belongs to other pictures.
        """
        self.pictures, self._features = pictures, features
        self._vectors = stored_features(features, np.stack([picture.pixels for picture in pictures]), file)
        self._squares = np.concatenate([(part**2).sum(1) for part in self._parts()])
        self._shown = [{(picture.emoji, picture.style)} for picture in pictures]
        for i, j in equal_pairs([reduced(Image.fromarray(picture.pixels)) for picture in pictures]):
            self._shown[i].add((pictures[j].emoji, pictures[j].style))
            self._shown[j].add((pictures[i].emoji, pictures[i].style))

    def _parts(self):
        """The vectors in float32, some at a time."""
        return (self._vectors[first : first + 1024].astype(np.float32) for first in range(0, len(self._vectors), 1024))

    def judge(self, images: np.ndarray, wanted: Sequence[StylePicture]) -> Judgement:
        """Compare images [N, 3, H, W] in [0, 1] with all real pictures, N times with what was wanted."""
        return self.judge_nearest(self.nearest(images), wanted)

    def nearest(self, images: np.ndarray) -> np.ndarray:
        """The number of the nearest picture, int64 [N]."""
        vectors = self._features(images)
        distances = np.concatenate([-2 * vectors @ part.T for part in self._parts()], axis=1) + self._squares
        return distances.argmin(1)

    def judge_nearest(self, nearest: np.ndarray, wanted: Sequence[StylePicture]) -> Judgement:
        """The judgement of drawings whose nearest pictures are known."""
        shown = [self._shown[number] for number in nearest]
        return Judgement(
            nearest,
            np.array([any(emoji == one.emoji for emoji, _ in found) for found, one in zip(shown, wanted)]),
            np.array([any(style is one.style for _, style in found) for found, one in zip(shown, wanted)]),
            np.array([(one.emoji, one.style) in found for found, one in zip(shown, wanted)]),
        )
