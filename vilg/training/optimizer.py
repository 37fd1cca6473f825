"""The optimizer: AdamW, and which parameters its weight decay applies to."""

import paddle
from paddle import nn

from vilg import config

# minGPT and GPT-NeoX decay the weights of linear layers and convolutions. Norms and biases need their scale, and the
# rows of an embedding that a batch does not use would be decayed without a gradient that keeps them up.
_DECAYED = (nn.Linear, nn.Conv2D, nn.Conv2DTranspose)


def adamw(settings: config.Train, model: nn.Layer) -> paddle.optimizer.AdamW:
    """AdamW over the parameters of `model` that are not frozen.

    Weight decay applies to the weights of linear layers and convolutions. With `train.decay_embeddings` it applies to
    everything except vectors (biases, norms, single embeddings): also to embeddings, position tables and codebooks.
    """
    decayed = decayed_names(model, settings.decay_embeddings)
    return paddle.optimizer.AdamW(
        settings.lr,
        settings.beta1,
        settings.beta2,
        settings.adam_epsilon,
        parameters=[value for value in model.parameters() if not value.stop_gradient],
        weight_decay=settings.weight_decay,
        multi_precision=True,  # 16-bit parameters have fp32 masters
        # Sharding stage 3 names the local slice of a parameter slice@NAME.
        apply_decay_param_fun=lambda name: name.removeprefix("slice@") in decayed,
    )


def decayed_names(model: nn.Layer, embeddings: bool) -> set[str]:
    """Paddle's names of the parameters that weight decay applies to."""
    if embeddings:
        return {value.name for value in model.parameters() if value.ndim > 1}
    layers = (layer for layer in model.sublayers(include_self=True) if isinstance(layer, _DECAYED))
    return {layer.weight.name for layer in layers}
