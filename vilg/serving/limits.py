"""How much a server takes from strangers."""

from dataclasses import dataclass, field, fields

from vilg.errors import UserError


def _limit(default: int, help: str):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """Whole numbers, each an option of `vilg serve`. UserError if one is not positive, or if they contradict each
    other."""

    pictures: int = _limit(8, "pictures that one request may ask for")
    beams: int = _limit(8, "captions of a picture that one request may ask for")
    characters: int = _limit(500, "characters of a text; how many tokens the model reads of them is its own limit")
    megabytes: int = _limit(10, "size of an uploaded picture")
    megapixels: int = _limit(30, "pixels of an uploaded picture, in millions")
    waiting: int = _limit(64, "requests that may wait; more are told that the server is busy")
    rows: int = _limit(32, "drawings and beams that are decoded together")

    def __post_init__(self):
        for limit in fields(self):
            if getattr(self, limit.name) < 1:
                raise UserError(f"--{limit.name} {getattr(self, limit.name)}: must be positive")
        if self.rows < max(self.pictures, self.beams):
            raise UserError(f"--rows {self.rows}: a request may ask for {max(self.pictures, self.beams)}")
