"""Negative log-likelihood of held-out data in nats per token, for the model and for a unigram baseline."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import paddle

from vilg.arrays import to_numpy
from vilg.attention.patterns import DIRECTIONS
from vilg.data.images import to_unit
from vilg.data.loader import EncodeCaption
from vilg.data.sampling_order import Sample
from vilg.distributed.world import World
from vilg.image.tokenizer import ImageTokenizer
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets

_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class Pair:
    """One caption of one image in tokens: text int64 [T], image int64 [n]."""

    name: str
    caption: str
    text: np.ndarray
    image: np.ndarray


@paddle.no_grad()
def tokenize_pairs(
    samples: Iterable[tuple[Sample, list[str]]], encode: EncodeCaption, image_tokenizer: ImageTokenizer
) -> list[Pair]:
    """Encode samples: one pair for each caption of each sample."""
    pairs = []
    for group in _groups(samples, _IMAGES_AT_ONCE):
        images = to_unit(np.stack([sample.image for sample, _ in group]))
        codes = to_numpy(image_tokenizer.encode(paddle.to_tensor(images)).flatten(1))
        for (sample, captions), image in zip(group, codes):
            pairs += [Pair(sample.name, caption, encode(caption), image) for caption in captions]
    return pairs


@paddle.no_grad()
def mean_nll(model: Transformer, pairs: list[Pair], batch: int, world: World) -> dict[str, float]:
    """{direction: mean -log p of its target tokens} over `pairs`, which the ranks divide.

    All ranks make the same number of forward passes, because with stage 3 each of them gathers parameters. A rank that
    has no pairs left computes one that does not count.
    """
    sums = {f"{direction}/{part}": 0.0 for direction in DIRECTIONS for part in ("nll", "count")}
    own, most = pairs[world.rank :: world.ranks], -(-len(pairs) // world.ranks)
    for first in range(0, most, batch):
        group = own[first : first + batch]
        text, image = _tensors(group or pairs[:1])
        for direction in DIRECTIONS:
            ids, counted = targets(direction, text, image, model.vocab_size)
            nll = float(summed_nll(model(direction, text, image), ids, counted))
            if group:
                sums[f"{direction}/nll"] += nll
                sums[f"{direction}/count"] += float(counted.sum())
    sums = world.sum(sums)
    return {direction: sums[f"{direction}/nll"] / sums[f"{direction}/count"] for direction in DIRECTIONS}


def unigram_nll(training: list[Pair], heldout: list[Pair], vocab_size: int, codebook_size: int) -> dict[str, float]:
    """{direction: mean -log p} of the held-out target tokens under their training frequencies, with add-one smoothing.

    The baseline knows only how often each token occurs.
    """
    classes = dict(zip(DIRECTIONS, (codebook_size, vocab_size)))
    result = {}
    for direction in DIRECTIONS:
        counts = np.bincount(_target_ids(direction, training, vocab_size), minlength=classes[direction]) + 1.0
        log_p = np.log(counts / counts.sum())
        result[direction] = float(-log_p[_target_ids(direction, heldout, vocab_size)].mean())
    return result


@paddle.no_grad()
def caption_exact_match(model: Transformer, pairs: list[Pair], batch: int, unknown: int) -> list[bool]:
    """For each pair, whether greedy decoding from the image gives exactly the caption. `unknown` is never generated.

    This holds if and only if each token, including EOT, is the most likely one after the preceding tokens, which takes
    one forward pass instead of one per token. Tokens are compared, so differences that the tokenizer removes, such as
    capital letters, do not count.
    """
    matches: list[bool] = []
    for group in _groups(pairs, batch):
        text, image = _tensors(group)
        direction = DIRECTIONS[1]
        ids, counted = targets(direction, text, image, model.vocab_size)
        logits = model(direction, text, image)
        logits[:, :, unknown] = -float("inf")
        matches += ((logits.argmax(-1) == ids) | ~counted).all(-1).tolist()
    return matches


def _target_ids(direction: str, pairs: list[Pair], vocab_size: int) -> np.ndarray:
    ids, counted = targets(direction, *_tensors(pairs), vocab_size)
    return to_numpy(ids)[to_numpy(counted)]


def _tensors(pairs: list[Pair]) -> tuple[paddle.Tensor, paddle.Tensor]:
    return (
        paddle.to_tensor(np.stack([pair.text for pair in pairs])),
        paddle.to_tensor(np.stack([pair.image for pair in pairs])),
    )


def _groups(items: Iterable, size: int) -> Iterator[list]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
