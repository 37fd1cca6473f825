"""METEOR 1.5 with exact matches (Denkowski and Lavie 2014), without Java.

Stems, synonyms and paraphrases of the original are for European languages. For Chinese the original gives the same
score as this, with its parameters for English, which COCO's evaluation uses.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_ALPHA, _BETA, _GAMMA = 0.85, 0.2, 0.6
_BEAM = 40  # partial alignments that are kept, as in the original


@dataclass(frozen=True)
class Counts:
    """Sums over captions: tokens of the predictions and of their references, matched tokens, chunks of matches."""

    predicted: int = 0
    expected: int = 0
    matches: int = 0
    chunks: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.predicted + other.predicted,
            self.expected + other.expected,
            self.matches + other.matches,
            self.chunks + other.chunks,
        )

    @property
    def score(self) -> float:
        if not self.matches:
            return 0.0
        precision, recall = self.matches / self.predicted, self.matches / self.expected
        mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
        return mean * (1 - _GAMMA * (self.chunks / self.matches) ** _BETA)


def meteor(pairs: Iterable[tuple[Sequence[str], Sequence[Sequence[str]]]]) -> float:
    """The score of all (prediction, references), each as tokens: that of the summed counts of each prediction with its
    best reference. The mean of the scores of single captions is another number.
    """
    total = Counts()
    for prediction, references in pairs:
        total += max((count(prediction, reference) for reference in references), key=lambda counts: counts.score)
    return total.score


def count(prediction: Sequence[str], reference: Sequence[str]) -> Counts:
    """The counts of the alignment with the most matches, of these that with the fewest chunks.

    A chunk is a run of matches that is contiguous and in the same order in both. Equal texts count as none, as in the
    original, so that their score is 1.
    """
    matches, chunks = _align(prediction, reference)
    is_equal = matches == len(prediction) == len(reference) and chunks == 1
    return Counts(len(prediction), len(reference), matches, 0 if is_equal else chunks)


class _Partial(NamedTuple):
    """An alignment of the first tokens of a prediction. used: bits of the matched positions of the reference. last:
    position that the preceding token is matched with, -2 if none.
    """

    matches: int
    chunks: int
    distance: int
    used: int
    last: int

    @property
    def rank(self) -> tuple[int, int, int]:
        return -self.matches, self.chunks, self.distance


def _align(prediction: Sequence[str], reference: Sequence[str]) -> tuple[int, int]:
    places: dict[str, list[int]] = {}
    for place, token in enumerate(reference):
        places.setdefault(token, []).append(place)
    # A token may stay unmatched only if there are more of its kind than in the reference.
    spare = {token: number - len(places.get(token, [])) for token, number in Counter(prediction).items()}
    beam = [_Partial(0, 0, 0, 0, -2)]
    for position, token in enumerate(prediction):
        extended: dict[tuple[int, int], _Partial] = {}
        for partial in beam:
            options = [
                _Partial(
                    partial.matches + 1,
                    partial.chunks + (place != partial.last + 1),
                    partial.distance + abs(place - position),
                    partial.used | 1 << place,
                    place,
                )
                for place in places.get(token, [])
                if not partial.used >> place & 1
            ]
            if spare[token] > 0 or not options:
                options.append(partial._replace(last=-2))
            for option in options:
                key = option.used, option.last
                if key not in extended or option.rank < extended[key].rank:
                    extended[key] = option
        beam = sorted(extended.values(), key=lambda one: one.rank)[:_BEAM]
    return beam[0].matches, beam[0].chunks
