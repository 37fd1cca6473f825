"""Floating-point operations of a model."""

from vilg.attention import layout
from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.model.transformer import Transformer


def forward(model: Transformer, batch: int) -> dict[str, float]:
    """Operations of the matrix products in the trained directions for `batch` pairs; a multiplication and an addition
    count as two.

    Returns {"linear", "attention"} of all blocks and {"heads"} of the output layers. Attention counts the tiles that
    the operator computes.
    """
    hidden, counts = model.settings.hidden, dict.fromkeys(("linear", "attention", "heads"), 0.0)
    image = model.grid[0] * model.grid[1]
    for direction in model.trained_directions:
        outputs = (
            image * model.codebook_size if direction == TEXT_TO_IMAGE else (model.text_length - 1) * model.vocab_size
        )
        counts["heads"] += batch * 2 * hidden * outputs
        for pattern in model.patterns:
            attention_layout = layout.build(
                direction, pattern, model.text_length, model.grid, model.settings.conv_kernel
            )
            counts["linear"] += batch * 2 * 12 * hidden**2 * attention_layout.length
            counts["attention"] += batch * 2 * 2 * hidden * attention_layout.tiles().computed_pairs
    return counts


def model_flops(model: Transformer, batch: int) -> float:
    """Operations of a training step of `batch` pairs as model FLOPs utilization counts them (Chowdhery et al., 2022,
    appendix B): the backward pass takes twice as many as the forward pass, and nothing is computed again.
    """
    return 3 * sum(forward(model, batch).values())


def training_step(model: Transformer, batch: int) -> float:
    """Operations of a training step of `batch` pairs.

    Backward takes twice as many as forward, in attention 2.5 times, since scores are computed again. Recompute is not
    counted.
    """
    counts = forward(model, batch)
    return 3 * (counts["linear"] + counts["heads"]) + 3.5 * counts["attention"]
