"""Text to image: one code after the other, each from a full forward pass."""

import numpy as np
import paddle

from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.generation.sampling import Sampler
from vilg.model.transformer import Transformer
from vilg.progress import Progress


@paddle.no_grad()
def draw(model: Transformer, text: np.ndarray, sample: Sampler, show_progress: bool = False) -> np.ndarray:
    """Text ids [B, T] -> codes int64 [B, h, w]. `model` is in evaluation mode."""
    height, width = model.grid
    codes = np.zeros([len(text), height * width], dtype=np.int64)  # a code is read only after it was written
    text = paddle.to_tensor(text)
    with Progress("drawing", height * width, quiet=not show_progress) as progress:
        for place in range(height * width):
            states = model.hidden_states(TEXT_TO_IMAGE, text, paddle.to_tensor(codes))
            logits = model.image_head(states[:, model.text_length - 1 + place])
            codes[:, place] = sample(logits.numpy())
            progress.advance()
    return codes.reshape([-1, height, width])
