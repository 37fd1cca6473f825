"""Limits of what clients may send and request."""

from dataclasses import dataclass, field, fields

from vilg.errors import UserError


def _limit(default: int, description: str):
    return field(default=default, metadata={"help": description})


@dataclass(frozen=True)
class Limits:
    """Positive whole numbers, each an option of `vilg serve`. Raises UserError for unusable values."""

    pictures: int = _limit(8, "images in one request")
    beams: int = _limit(8, "captions of an image in one request")
    characters: int = _limit(500, "characters of a text; in addition, the model has a limit of tokens")
    megabytes: int = _limit(10, "size of an uploaded image in MB")
    uploads: int = _limit(200, "MB of all uploaded and generated files; they are deleted after ten minutes")
    megapixels: int = _limit(30, "pixels of an uploaded image, in millions")
    waiting: int = _limit(64, "requests that may wait; further ones are refused as busy")
    rows: int = _limit(32, "images and beams that are decoded together")

    def __post_init__(self):
        for limit in fields(self):
            if getattr(self, limit.name) < 1:
                raise UserError(f"--{limit.name} {getattr(self, limit.name)}: must be positive")
        if self.rows < max(self.pictures, self.beams):
            raise UserError(
                f"--rows {self.rows}: has to be at least {max(self.pictures, self.beams)}, the largest request"
            )
