"""Metrics of a run: metrics.jsonl, VisualDL curves and sample images."""

import io
import json
import logging
import os
from pathlib import Path

import numpy as np
from PIL import Image

from vilg.files import write_atomically
from vilg.metrics_jsonl import step_of
from vilg.training.visualdl_log import VisualDLLog

log = logging.getLogger(__name__)


class MetricsWriter:
    """Writes the metrics of a run on rank 0.

    Lines and points of steps after `step`, left by an interrupted run, are removed.
    """

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "metrics.jsonl"
        _keep_steps(file, step)
        self._file = open(file, "a", encoding="utf-8", buffering=1)  # each line is flushed
        self._folder = folder
        self._curves = VisualDLLog(folder / "visualdl", step)

    def write_metrics(self, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl and one point to each curve. `values` includes `step` and `timestamp`."""
        self._file.write(json.dumps(values) + "\n")
        points = {name: value for name, value in values.items() if name not in ("step", "timestamp")}
        self._curves.write_scalars(int(values["step"]), points, values["timestamp"])

    def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Write images uint8 [H, W, 3] to VisualDL. The newest image of each name is also a PNG in the run's folder."""
        for name, image in images.items():
            self._curves.write_image(name, image, step)
            data = io.BytesIO()
            Image.fromarray(image).save(data, "PNG")
            write_atomically(self._folder / f"{name}.png", data.getvalue())

    def close(self) -> None:
        self._file.close()
        self._curves.close()


def _keep_steps(file: Path, step: int) -> None:
    """Remove the lines of later steps, and lines that a kill or a power failure has damaged.

    Usually these are the last lines, and the file is cut at a known offset. Otherwise it is replaced by a complete one.
    """
    kept, damaged, end, offset = [], 0, 0, 0
    for line in file.read_bytes().splitlines(keepends=True) if file.exists() else ():
        offset += len(line)
        number = step_of(line)
        if number is None:
            damaged += 1
        elif number <= step:
            kept.append(line)
            end = offset
    if damaged:
        log.warning("%s: %d damaged lines are removed", file, damaged)
    if sum(map(len, kept)) == end:
        if file.exists():
            os.truncate(file, end)
    else:
        write_atomically(file, b"".join(kept))
