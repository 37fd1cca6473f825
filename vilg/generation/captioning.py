"""Image to text: one word after the other, each from what the layers keep of those before."""

import numpy as np
import paddle

from vilg.attention.patterns import IMAGE_TO_TEXT
from vilg.generation.decoder import Decoder
from vilg.generation.sampling import Sampler
from vilg.model.transformer import Transformer
from vilg.text.sequence import longest_caption
from vilg.text.tokenizer import TextTokenizer


def caption(model: Transformer, codes: np.ndarray, tokenizer: TextTokenizer, sample: Sampler) -> list[str]:
    """Codes int64 [B, n] -> captions of at most T-3 tokens. `model` is in evaluation mode."""
    batch = len(codes)
    decoder = Decoder(model, IMAGE_TO_TEXT, paddle.to_tensor(codes))
    words: list[list[int]] = [[] for _ in range(batch)]
    open_rows, chosen = set(range(batch)), np.full(batch, tokenizer.begin)
    for _ in range(longest_caption(model.text_length)):
        logits = decoder.step(paddle.to_tensor(chosen)).numpy()
        logits[:, tokenizer.unknown] = -np.inf  # "a word I do not know" is no word to write
        chosen = sample(logits)
        open_rows -= {row for row in open_rows if chosen[row] == tokenizer.end}
        for row in open_rows:
            words[row].append(int(chosen[row]))
        if not open_rows:
            break
    return [tokenizer.decode(row) for row in words]
