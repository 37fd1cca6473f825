"""Metrics of a run: metrics.jsonl, VisualDL curves and sample images."""

import json
import logging
from pathlib import Path

import numpy as np
from PIL import Image

log = logging.getLogger(__name__)


class MetricsWriter:
    """Writes the metrics of a run on rank 0. Lines of steps after `step`, left by an interrupted run, are removed."""

    def __init__(self, folder: Path, step: int):
        from visualdl import LogWriter

        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "metrics.jsonl"
        earlier = [line for line in _lines(file) if json.loads(line)["step"] <= step]
        file.write_text("".join(earlier), "utf-8")
        self._file = open(file, "a", encoding="utf-8", buffering=1)  # each line is flushed
        self._folder = folder
        self._curves = LogWriter(logdir=str(folder / "visualdl"))

    def write_metrics(self, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl and one point to each curve. `values` includes `step`."""
        self._file.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if name != "step":
                self._curves.add_scalar(name, value, values["step"])

    def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Write images uint8 [H, W, 3] to VisualDL. The newest image of each name is also a PNG in the run's folder."""
        for name, image in images.items():
            self._curves.add_image(name, image, step)
            Image.fromarray(image).save(self._folder / f"{name}.png")

    def close(self) -> None:
        self._file.close()
        self._curves.close()


def _lines(file: Path) -> list[str]:
    """The complete lines of a file. The last line of an interrupted run may be incomplete and is dropped."""
    if not file.exists():
        return []
    return [line for line in file.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
