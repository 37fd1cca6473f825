"""The optimizer: AdamW with weight decay on matrices only."""

import paddle
from paddle import nn

from vilg import config


def adamw(settings: config.Train, model: nn.Layer) -> paddle.optimizer.AdamW:
    """AdamW over the parameters of `model`. Vectors (biases, norms, single embeddings) are not decayed."""
    decayed = {value.name for value in model.parameters() if value.ndim > 1}
    return paddle.optimizer.AdamW(
        settings.lr,
        settings.beta1,
        settings.beta2,
        parameters=[value for value in model.parameters() if not value.stop_gradient],
        weight_decay=settings.weight_decay,
        # Sharding stage 3 names the local slice of a parameter slice@NAME.
        apply_decay_param_fun=lambda name: name.removeprefix("slice@") in decayed,
    )
