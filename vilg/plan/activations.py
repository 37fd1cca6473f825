"""The peak of a micro-batch's activations: forward and backward replayed tensor by tensor, without computing.

The replay follows what Paddle keeps for the gradient of each operation and when it lets go of it. tests/plan compares
it with the peak of Paddle's allocator on a CPU; in 16 bits and on a GPU it has not been compared with anything.
"""

from vilg.attention import layout
from vilg.attention.patterns import DIRECTIONS, TEXT_TO_IMAGE
from vilg.distributed.recompute import recomputed
from vilg.model.transformer import Transformer
from vilg.plan.ledger import Ledger

_FP32 = 4


def peak(model: Transformer, backend: str, recompute: str, batch: int, width: int) -> int:
    """Bytes of activations and of gradients on their way, at the worst moment of either direction.

    backend: operator, blockwise or dense; recompute: as in the settings; batch: pairs of a micro-batch; width: bytes
    of a number, 4 or 2. The sum of the gradients themselves is a state, and not counted here.
    """
    return round(max(_Replay(model, direction, backend, recompute, batch, width).peak() for direction in DIRECTIONS))


class _Replay:
    """One direction. Sizes are bytes; `x` is that of the hidden states of all tokens."""

    def __init__(self, model: Transformer, direction: str, backend: str, recompute: str, batch: int, width: int):
        self.model, self.settings, self.batch, self.width = model, model.settings, batch, width
        self.backend, self.again = backend, recomputed(recompute, self.settings.layers)
        image = model.grid[0] * model.grid[1]
        self.tokens = batch * (model.text_length + image)
        self.x = self.tokens * self.settings.hidden * width
        drawing = direction == TEXT_TO_IMAGE
        self.targets = batch * (image if drawing else model.text_length - 1)
        self.classes = model.codes if drawing else model.vocabulary
        self.maps = [
            self._maps(layout.build(direction, pattern, model.text_length, model.grid, self.settings.conv_kernel))
            for pattern in model.patterns
        ]
        self.ledger = Ledger()

    def _maps(self, made: layout.Layout) -> int:
        """Elements of the attention maps of a layer, where they are kept."""
        pairs = {"dense": made.length**2, "blockwise": made.tiles().computed, "operator": 0}[self.backend]
        return self.batch * self.settings.heads * pairs

    def peak(self) -> float:
        ledger = self.ledger
        ledger.take(2 * self.x)  # the embedded parts, and both behind each other
        for number in range(self.settings.layers):
            inside = Ledger()
            self._forward(number, inside)
            ledger.need(inside.peak)
            ledger.take(self.x if number in self.again else inside.live)
        ledger.give(self.x)  # the parts
        self._head()
        for number in reversed(range(self.settings.layers)):
            if number in self.again:
                self._forward(number, ledger)
                ledger.give(self.x)  # what comes out is not asked for again
            self._backward(number)
        self._embeddings()
        return ledger.peak

    def _forward(self, number: int, ledger: Ledger) -> None:
        """Leaves in the ledger what the block keeps for its gradient, and its output."""
        x, sandwich = self.x, self.settings.sandwich_norm
        ledger.take(x)  # normalized: the input of the products
        self._linear(ledger, 3)
        self._attention_forward(number, ledger)
        ledger.need(2 * x)  # out
        ledger.take((2 if sandwich else 1) * x + self._dropped())
        ledger.take(x)  # normalized
        self._linear(ledger, 4)
        ledger.take(4 * x)  # GELU
        ledger.need(2 * x)
        ledger.take((2 if sandwich else 1) * x + self._dropped())

    def _linear(self, ledger: Ledger, wide: int) -> None:
        """The product, and then the sum with the bias, which is another tensor."""
        ledger.take(wide * self.x)
        ledger.need(wide * self.x)

    def _dropped(self) -> float:
        return self.tokens * self.settings.hidden if self.settings.dropout else 0

    def _lse(self) -> float:
        return self.tokens * self.settings.heads * _FP32

    def _kept_by_attention(self, number: int) -> float:
        """Queries, keys, values, output, and what makes the weights of the pairs."""
        x, normed = self.x, 3 * self.x if self.settings.qk_norm else 0  # q and k before their norms, and v apart
        if self.backend == "operator":
            return 4 * x + self._lse() + (2 * x if normed else 0)
        maps = self.maps[number] * (_FP32 if self.width == _FP32 else _FP32 + self.width)
        if self.backend == "dense":
            return 4 * x + maps + (2 * x if normed else 0)
        tile = layout.CPU_TILE
        gathered = 2 * self.maps[number] // tile * self.model.blocks[0].attention.head_size * self.width
        return 2 * x + gathered + maps + (2 * x if normed else 0)

    def _attention_forward(self, number: int, ledger: Ledger) -> None:
        """From queries, keys and values to the output of attention."""
        if self.backend != "operator":  # taken apart, normed, turned, scaled; scores, with the mask, their softmax
            ledger.need((9 if self.settings.qk_norm else 7) * self.x + 3 * self.maps[number] * _FP32)
        ledger.give(3 * self.x)
        ledger.take(self._kept_by_attention(number))

    def _attention_backward(self, number: int, ledger: Ledger) -> None:
        """Takes the gradients of queries, keys and values, gives what was kept but the output."""
        if self.backend != "operator":
            ledger.need(3 * self.x + 2 * self.maps[number] * _FP32)
        ledger.take(3 * self.x)
        ledger.give(self._kept_by_attention(number) - self.x)

    def _head(self) -> None:
        """From the last block's output to the gradient of it, which stays."""
        ledger, states = self.ledger, self.targets * self.settings.hidden * self.width
        logits = self.targets * self.classes
        ledger.take(self.x)  # the last norm
        ledger.take(states)  # of the target part
        ledger.take(logits * self.width)
        ledger.need(logits * self.width)  # the bias
        ledger.give(self.x)
        if self.width < _FP32:
            ledger.take(logits * _FP32)
            ledger.give(logits * self.width)
        ledger.take(logits * _FP32)  # softmax beside the logits
        ledger.give(logits * _FP32)
        if self.width < _FP32:
            ledger.take(logits * self.width)  # the gradient, in place of the softmax, and then in 16 bits
            ledger.give(logits * _FP32)
        ledger.take(states)
        ledger.need(self.settings.hidden * self.classes * self.width)
        ledger.give(logits * self.width + states)
        ledger.take(self.x)  # the rest of the sequence has none
        ledger.give(states)
        ledger.take(self.x)  # through the norm; what it was made from and its gradient go
        ledger.give(2 * self.x)

    def _backward(self, number: int) -> None:
        """From the gradient of the output to that of the input; gives back what _forward kept, but the input."""
        ledger, x, weight = self.ledger, self.x, self.settings.hidden**2 * self.width
        sandwich = x if self.settings.sandwich_norm else 0
        ledger.take(x)  # of the branch beside that of the sum
        ledger.give(sandwich + self._dropped())
        ledger.take(4 * x)
        ledger.need(4 * weight)
        ledger.give(4 * x + x)  # GELU's output, the branch
        ledger.take(4 * x)  # through GELU
        ledger.give(4 * x + 4 * x)
        ledger.take(x)
        ledger.need(4 * weight)
        ledger.give(4 * x + x)
        ledger.take(x)  # through the norm
        ledger.give(x)
        ledger.take(x)  # the sum with what went past
        ledger.give(2 * x + x)  # and the middle of the block
        ledger.take(x)
        ledger.give(sandwich + self._dropped())
        ledger.take(x)
        ledger.need(weight)
        ledger.give(x)
        self._attention_backward(number, ledger)
        ledger.give(2 * x)  # the output of attention and its gradient
        ledger.take(x)
        ledger.need(3 * weight)
        ledger.give(3 * x + x)
        ledger.take(x)
        ledger.give(x)
        ledger.take(x)
        ledger.give(2 * x)
        ledger.give(x)  # the output of the block before, which its own backward does not need

    def _embeddings(self) -> None:
        largest = max(self.model.embed_text.words.weight.size, self.model.embed_image.codes.weight.size)
        self.ledger.need(self.x + largest * self.width)
