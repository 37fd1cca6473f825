"""What a run leaves behind for people to read: metrics.jsonl, VisualDL curves and pictures."""

import json
import logging
from pathlib import Path

import numpy as np
from PIL import Image

log = logging.getLogger(__name__)


class MetricsWriter:
    """Rank 0's records of a run. Goes on behind `step`: lines of later steps, left by a run that was killed, go."""

    def __init__(self, folder: Path, step: int):
        from visualdl import LogWriter

        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "metrics.jsonl"
        kept = [line for line in _lines(file) if json.loads(line)["step"] <= step]
        file.write_text("".join(kept), "utf-8")
        self._file = open(file, "a", encoding="utf-8", buffering=1)  # a line reaches the file when it is written
        self._folder = folder
        self._curves = LogWriter(logdir=str(folder / "visualdl"))

    def write_metrics(self, values: dict[str, float]) -> None:
        """One line of metrics.jsonl and one point on each curve; `values` holds `step`."""
        self._file.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if name != "step":
                self._curves.add_scalar(name, value, values["step"])

    def write_images(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Pictures uint8 [H, W, 3] in VisualDL; the newest of each name is a PNG in the run's folder too."""
        for name, picture in pictures.items():
            self._curves.add_image(name, picture, step)
            Image.fromarray(picture).save(self._folder / f"{name}.png")

    def close(self) -> None:
        self._file.close()
        self._curves.close()


def _lines(file: Path) -> list[str]:
    """The whole lines of a file; the last one of a killed run may be cut short and is dropped."""
    if not file.exists():
        return []
    return [line for line in file.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
