"""BLEU, METEOR, ROUGE-L and CIDEr, times 100, as COCO's evaluation computes them (the package pycocoevalcap)."""

import contextlib
import io
import shutil
from collections.abc import Sequence

from vilg.errors import UserError
from vilg.evaluation.captions.meteor import meteor
from vilg.evaluation.captions.tokens import Split, splitter


def score_captions(
    captions: dict[str, tuple[str, list[str]]],
    kind: str = "character",
    normalizations: Sequence[str] = (),
    java_meteor: bool = False,
) -> dict[str, float]:
    """captions: {image id: (prediction, references)}. kind, normalizations: see `splitter`. Returns {"BLEU_1": .., ..,
    "BLEU_4": .., "METEOR": .., "ROUGE_L": .., "CIDEr": ..}. Raises UserError.

    CIDEr is the plain one with clipping and a length penalty (pycocoevalcap's class Cider), which the paper's figures
    are. METEOR is always by characters, because the original splits Chinese text into them itself; it is computed with
    exact matches in Python, or with java_meteor by the original.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise UserError(
            f"caption metrics need the package pycocoevalcap: pip install 'vilg[evaluate]' ({error})"
        ) from None
    tokens = _tokens(captions, splitter(kind, normalizations))
    predictions = {image: [" ".join(prediction)] for image, (prediction, _) in tokens.items()}
    references = {image: [" ".join(text) for text in texts] for image, (_, texts) in tokens.items()}
    scores: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints
        for number, value in enumerate(Bleu(4).compute_score(references, predictions, verbose=0)[0], 1):
            scores[f"BLEU_{number}"] = value
        if java_meteor:
            scores["METEOR"] = _java_meteor(references, predictions)
        else:
            scores["METEOR"] = meteor(_tokens(captions, splitter("character", normalizations)).values())
        scores["ROUGE_L"] = Rouge().compute_score(references, predictions)[0]
        scores["CIDEr"] = Cider().compute_score(references, predictions)[0]
    return {name: 100 * float(value) for name, value in scores.items()}


def _tokens(captions: dict[str, tuple[str, list[str]]], split: Split) -> dict[str, tuple[list[str], list[list[str]]]]:
    """{image id: (tokens of the prediction, tokens of each reference that has any)}"""
    tokens = {}
    for image, (prediction, texts) in captions.items():
        tokens[image] = split(prediction), [words for words in map(split, texts) if words]
        if not tokens[image][1]:
            raise UserError(f"image {image}: no reference has a token")
    return tokens


def _java_meteor(references: dict[str, list[str]], predictions: dict[str, list[str]]) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    if shutil.which("java") is None:
        raise UserError("--meteor java: there is no java; without this option METEOR is computed without it")
    program = Meteor()
    try:
        return program.compute_score(references, predictions)[0]
    except (ValueError, OSError) as error:
        raise UserError(f"--meteor java: it failed ({' '.join(str(error).split())[:100]})") from None
