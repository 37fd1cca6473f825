"""Image to text: one word after the other, each from a full forward pass."""

import numpy as np
import paddle

from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.generation.sampling import Sampler
from vilg.model.transformer import Transformer
from vilg.text.sequence import longest_caption, padding
from vilg.text.tokenizer import TextTokenizer


@paddle.no_grad()
def caption(model: Transformer, codes: np.ndarray, tokenizer: TextTokenizer, sample: Sampler) -> list[str]:
    """Codes int64 [B, n] -> captions of at most T-3 tokens. `model` is in evaluation mode."""
    batch, length = len(codes), model.text_length
    text = np.tile(padding(model.vocabulary, length), (batch, 1))
    text[:, 0] = tokenizer.begin
    image = paddle.to_tensor(codes)
    words: list[list[int]] = [[] for _ in range(batch)]
    open_rows = set(range(batch))
    for place in range(longest_caption(length)):
        states = model.hidden_states(IMAGE_TO_TEXT, paddle.to_tensor(text), image)
        logits = model.text_head(states[:, -length + place]).numpy()
        logits[:, tokenizer.unknown] = -np.inf  # "a word I do not know" is no word to write
        chosen = sample(logits)
        text[:, place + 1] = chosen
        open_rows -= {row for row in open_rows if chosen[row] == tokenizer.end}
        for row in open_rows:
            words[row].append(int(chosen[row]))
        if not open_rows:
            break
    return [tokenizer.decode(row) for row in words]
