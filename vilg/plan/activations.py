"""The peak of activation memory in one micro-batch: forward and backward pass replayed tensor by tensor.

Nothing is computed. The replay follows which tensors Paddle keeps for the gradient of each operation, and when it frees
them. tests/plan compares it with the peak of Paddle's allocator on a CPU. It has not been compared with 16 bits or a
GPU.
"""

from vilg.attention import layout
from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.distributed.recompute import recomputed_blocks
from vilg.model.transformer import Transformer
from vilg.plan.memory_tracker import MemoryTracker

_FP32 = 4


def peak(
    model: Transformer,
    backend: str,
    recompute: str,
    batch: int,
    width: int,
    gradient_width: int,
    z_loss: bool = False,
) -> int:
    """Bytes of activations and intermediate gradients at the worst moment of the trained directions.

    backend: operator, blockwise or dense. recompute: as in the settings. batch: pairs in a micro-batch. width: bytes of
    an element, 4 or 2. gradient_width: of an accumulated gradient. z_loss: whether there is one. Accumulated gradients
    are counted as states and not here.
    """
    return round(
        max(
            _Replay(model, direction, backend, recompute, batch, width, gradient_width, z_loss).peak()
            for direction in model.trained_directions
        )
    )


class _Replay:
    """The replay of one direction. Sizes are in bytes.

    x: size of the hidden states of all tokens. stream: that of the residual stream. gradient: size of an element of a
    parameter's gradient, and of the copy that is added to the accumulated gradient if that has another type.
    """

    def __init__(
        self,
        model: Transformer,
        direction: str,
        backend: str,
        recompute: str,
        batch: int,
        width: int,
        gradient_width: int,
        z_loss: bool,
    ):
        self.model, self.settings, self.batch, self.width, self.z_loss = model, model.settings, batch, width, z_loss
        self.backend, self.again = backend, recomputed_blocks(recompute, self.settings.layers)
        image = model.grid[0] * model.grid[1]
        self.tokens = batch * (model.text_length + image)
        self.x = self.tokens * self.settings.hidden * width
        self.stream = self.x * (_FP32 // width) if self.settings.fp32_residual_connection else self.x
        self.gradient = width if gradient_width == width else width + gradient_width
        text_to_image = direction == TEXT_TO_IMAGE
        self.targets = batch * (image if text_to_image else model.text_length - 1)
        self.classes = model.codebook_size if text_to_image else model.vocab_size
        self.maps = [
            self._maps(layout.build(direction, pattern, model.text_length, model.grid, self.settings.conv_kernel))
            for pattern in model.patterns
        ]
        self.memory = MemoryTracker()

    def _maps(self, attention_layout: layout.Layout) -> int:
        """Elements of the attention maps of a layer, where the backend stores them."""
        pairs = {
            "dense": attention_layout.length**2,
            "blockwise": attention_layout.tiles().computed_pairs,
            "operator": 0,
        }[self.backend]
        return self.batch * self.settings.heads * pairs

    def peak(self) -> float:
        memory = self.memory
        memory.allocate(2 * self.stream)  # the two embedded parts, and their concatenation
        for number in range(self.settings.layers):
            inside = MemoryTracker()
            self._forward(number, inside)
            memory.allocate_briefly(inside.peak)
            memory.allocate(self.stream if number in self.again else inside.live)
        memory.free(self.stream)  # the two parts
        self._head()
        for number in reversed(range(self.settings.layers)):
            if number in self.again:
                self._forward(number, memory)
                memory.free(self.stream)  # the output is not needed again
            self._backward(number)
        self._embeddings()
        return memory.peak

    def _forward(self, number: int, memory: MemoryTracker) -> None:
        """Leaves the tensors that the block keeps for its gradient, and its output, allocated."""
        x, sandwich = self.x, self.x if self.settings.sandwich_norm else 0
        memory.allocate(x)  # normalized: the input of the products
        self._linear(memory, 3)
        self._attention_forward(number, memory)
        memory.allocate_briefly(2 * x)  # out
        memory.allocate(sandwich + self.stream + self._dropped())
        memory.allocate(x)  # normalized
        self._linear(memory, 4)
        memory.allocate(4 * x)  # GELU
        memory.allocate_briefly(2 * x)
        memory.allocate(sandwich + self.stream + self._dropped())

    def _linear(self, memory: MemoryTracker, wide: int) -> None:
        """The matrix product, and its sum with the bias, which is a second tensor."""
        memory.allocate(wide * self.x)
        memory.allocate_briefly(wide * self.x)

    def _dropped(self) -> float:
        return self.tokens * self.settings.hidden if self.settings.dropout else 0

    def _lse(self) -> float:
        return self.tokens * self.settings.heads * _FP32

    def _kept_by_attention(self, number: int) -> float:
        """Queries, keys, values, output, and what is needed to compute the attention weights again."""
        x, normed = self.x, 3 * self.x if self.settings.qk_norm else 0  # q and k before their norms, and v apart
        if self.backend == "operator":
            return 4 * x + self._lse() + (2 * x if normed else 0)
        maps = self.maps[number] * (_FP32 if self.width == _FP32 else _FP32 + self.width)
        if self.backend == "dense":
            return 4 * x + maps + (2 * x if normed else 0)
        tile = layout.CPU_TILE
        padded_to_shards = 2 * self.maps[number] // tile * self.model.blocks[0].attention.head_size * self.width
        return 2 * x + padded_to_shards + maps + (2 * x if normed else 0)

    def _attention_forward(self, number: int, memory: MemoryTracker) -> None:
        """From queries, keys and values to the output of attention."""
        if self.backend != "operator":  # split, normalized, transposed, scaled; scores, masked scores, softmax
            memory.allocate_briefly((9 if self.settings.qk_norm else 7) * self.x + 3 * self.maps[number] * _FP32)
        memory.free(3 * self.x)
        memory.allocate(self._kept_by_attention(number))

    def _attention_backward(self, number: int, memory: MemoryTracker) -> None:
        """Allocates the gradients of queries, keys and values, and frees everything that was kept except the output."""
        if self.backend != "operator":
            memory.allocate_briefly(3 * self.x + 2 * self.maps[number] * _FP32)
        memory.allocate(3 * self.x)
        memory.free(self._kept_by_attention(number) - self.x)

    def _head(self) -> None:
        """From the last block's output to its gradient, which stays allocated."""
        memory, states = self.memory, self.targets * self.settings.hidden * self.width
        logits = self.targets * self.classes
        memory.allocate(self.x)  # the last norm
        memory.allocate(states)  # of the target part
        memory.allocate(logits * self.width)
        memory.allocate_briefly(logits * self.width)  # the bias
        memory.free(self.x)
        if self.width < _FP32:
            memory.allocate(logits * _FP32)
            memory.free(logits * self.width)
        memory.allocate(logits * _FP32)  # softmax in addition to the logits
        if self.z_loss:
            memory.allocate_briefly(logits * _FP32)  # its gradient, which also needs the logits
        memory.free(logits * _FP32)
        if self.width < _FP32:
            memory.allocate(logits * self.width)  # the gradient replaces the softmax, and is then converted to 16 bits
            memory.free(logits * _FP32)
        memory.allocate(states)
        memory.allocate_briefly(self.settings.hidden * self.classes * self.gradient)
        memory.free(logits * self.width + states)
        memory.allocate(self.x)  # zero for the rest of the sequence
        memory.free(states)
        memory.allocate(self.stream)  # through the norm; its input and output gradient are freed
        memory.free(self.stream + self.x)

    def _backward(self, number: int) -> None:
        """From the gradient of the output to that of the input. Frees what _forward kept, except the input."""
        memory, x, stream, weight = self.memory, self.x, self.stream, self.settings.hidden**2 * self.gradient
        sandwich = x if self.settings.sandwich_norm else 0
        memory.allocate(x)  # gradient of the branch in addition to that of the sum
        memory.free(sandwich + self._dropped())
        memory.allocate(4 * x)
        memory.allocate_briefly(4 * weight)
        memory.free(4 * x + x)  # GELU's output, the branch
        memory.allocate(4 * x)  # through GELU
        memory.free(4 * x + 4 * x)
        memory.allocate(x)
        memory.allocate_briefly(4 * weight)
        memory.free(4 * x + x)
        memory.allocate(stream)  # through the norm
        memory.free(x)
        memory.allocate(stream)  # the sum with the residual path
        memory.free(2 * stream + stream)  # and the middle of the block
        memory.allocate(x)
        memory.free(sandwich + self._dropped())
        memory.allocate(x)
        memory.allocate_briefly(weight)
        memory.free(x)
        self._attention_backward(number, memory)
        memory.free(2 * x)  # the output of attention and its gradient
        memory.allocate(x)
        memory.allocate_briefly(3 * weight)
        memory.free(3 * x + x)
        memory.allocate(stream)
        memory.free(x)
        memory.allocate(stream)
        memory.free(2 * stream)
        memory.free(stream)  # the output of the previous block, whose backward does not need it

    def _embeddings(self) -> None:
        largest = max(self.model.embed_text.words.weight.size, self.model.embed_image.codes.weight.size)
        self.memory.allocate_briefly(self.x + largest * self.gradient)
