"""The two files of caption metrics: lists of {"image_id": .., "caption": ..} in JSON."""

import json
from pathlib import Path

from vilg.errors import UserError, os_reason

Captions = dict[str, list[str]]  # {image id: captions}


def read_captions(file: Path) -> Captions:
    """All captions of each image, in the order of the file. `caption` may be a list. Raises UserError."""
    try:
        rows = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{file}: not JSON in UTF-8") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f'{file}: a list of {{"image_id": .., "caption": ..}} expected')
    captions: Captions = {}
    for number, row in enumerate(rows, 1):
        image, texts = (row.get("image_id"), row.get("caption")) if isinstance(row, dict) else (None, None)
        texts = [texts] if isinstance(texts, str) else texts
        good = isinstance(image, int | str) and isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        if not good or not texts:
            raise UserError(f'{file}: entry {number} is not {{"image_id": .., "caption": ..}}')
        captions.setdefault(str(image), []).extend(texts)
    return captions


def match(references: Captions, predictions: Captions, names: tuple[Path, Path]) -> dict[str, tuple[str, list[str]]]:
    """{image id: (prediction, references)}. names: of the two files, for messages.

    Raises UserError if an image has several predictions, or if an image is in one file only: a metric of a part of the
    images cannot be compared with that of all.
    """
    of_references, of_predictions = names
    for image, texts in predictions.items():
        if len(texts) > 1:
            raise UserError(f"{of_predictions}: image {image} has {len(texts)} captions; one expected")
    for one, other, file in ((predictions, references, of_references), (references, predictions, of_predictions)):
        missing = [image for image in one if image not in other]
        if missing:
            raise UserError(f"{file}: lacks {len(missing)} of {len(one)} images, for example {missing[0]}")
    return {image: (predictions[image][0], texts) for image, texts in references.items()}
