"""The weights of the two directions in the loss, for both ways of normalizing it.

The paper adds the negative log-likelihoods of all target tokens of both directions (section 3.1.2, equations (3) to
(5)). A run here reports means per token, so this module returns the weights w of

    L = w_t2i (mean over image tokens) + w_i2t (mean over text tokens)
"""

from vilg import config


def mean_weights(settings: config.LossWeights, tokens: dict[str, float]) -> dict[str, float]:
    """The weight of each direction's mean loss per target token.

    tokens: {direction: its target tokens in this step on all ranks}, for the directions that are trained.

    `direction`: the weights of the settings. `tokens`: also in proportion to the number of tokens, so that with equal
    settings every target token has the same weight. The total is divided by the number of tokens of both directions,
    which is almost constant. Without this division, train.max_grad_norm would apply to a gradient a thousand times as
    large.
    """
    weights = {direction: getattr(settings, direction) for direction in tokens}
    if settings.normalization == "direction":
        return weights
    total = sum(tokens.values())
    return {direction: weight * tokens[direction] / total for direction, weight in weights.items()}
