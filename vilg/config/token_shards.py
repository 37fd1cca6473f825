"""How images are encoded once for all trainings."""

from dataclasses import dataclass

from vilg.config.check import require


@dataclass
class Tokenize:
    """How `vilg data tokenize` fills the folder that `data.tokens` names; see docs/data.md."""

    crops: int = 1  # of an image, each by data.crop_jitter; training draws one of them each time
    batch: int = 32  # crops encoded at once
    part: int = 4096  # images of a file: what a killed process does again at most

    def __post_init__(self):
        for name in ("crops", "batch", "part"):
            require(getattr(self, name) > 0, f"tokenize.{name}={getattr(self, name)}: must be positive")
