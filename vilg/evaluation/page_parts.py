"""Parts of self-contained HTML pages: images, curves of a run, and the common look."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from vilg.data.images import to_uint8
from vilg.metrics_jsonl import read_steps

CSS = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
img { width: 64px; height: 64px; image-rendering: auto }
svg { max-width: 100%; height: auto }
figure { margin: 0; padding: 6px; border: 1px solid #ddd; border-radius: 6px; text-align: center }
figcaption { font-size: 14px; max-width: 272px }
.row { display: flex; flex-wrap: wrap; gap: 8px }
.gap { display: inline-block; width: 12px }
td { padding: 0 1em 0 0; font-variant-numeric: tabular-nums }
"""


def image_tag(pixels: np.ndarray) -> str:
    """An image [3, H, W] in [0, 1], or uint8 [H, W, 3]."""
    array = pixels if pixels.dtype == np.uint8 else to_uint8(pixels[None])[0]
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="">'


def loss_curves(run: Path) -> str:
    """Training and held-out losses of both directions of a run, as SVG. Empty if matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return ""
    mpl.use("svg")
    from matplotlib import pyplot as plt

    lines = read_steps(run / "metrics.jsonl")
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for axis, name, title in zip(axes, ("t2i", "i2t"), ("text to image", "image to text")):
        trained = [line for line in lines if f"loss_{name}" in line]
        axis.plot(
            [line["step"] for line in trained], _smooth([line[f"loss_{name}"] for line in trained]), label="training"
        )
        measured = [line for line in lines if f"heldout_nll_{name}" in line]
        axis.plot(
            [line["step"] for line in measured],
            [line[f"heldout_nll_{name}"] for line in measured],
            "o-",
            label="held out",
        )
        axis.set(title=title, xlabel="step", ylabel="nats per token")
        axis.legend()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _smooth(values: list[float]) -> list[float]:
    """Means of the last 20 values, or of the last 1% of a long run."""
    window = max(20, len(values) // 100)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(0, np.arange(1, len(sums)) - window)
    return ((sums[1:] - sums[first]) / (np.arange(1, len(sums)) - first)).tolist()
