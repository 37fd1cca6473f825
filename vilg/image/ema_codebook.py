"""Updates the codebook of a nearest-code quantizer by exponential moving averages instead of gradients."""

import paddle

from vilg.image.quantizer import NearestCode

_LEAST = 1e-5  # codes with less weight are not updated, because such small sums are inaccurate


class EMACodebook:
    """Each code is the moving average of the features assigned to it, with the given decay per step (van den Oord et
    al., arXiv 1711.00937, equations (6) to (8)). The codebook gets no gradient.

    counts [codes] and sums [codes, d] are N and m in that paper. A code starts at its initial value with weight 1.
    """

    def __init__(self, quantizer: NearestCode, decay: float):
        self.quantizer, self.decay = quantizer, decay
        quantizer.codebook.stop_gradient = True
        self.counts, self.sums = paddle.ones([quantizer.codebook.shape[0]]), quantizer.codebook.clone()

    @paddle.no_grad()
    def update(self, chosen: paddle.Tensor, summed: paddle.Tensor) -> None:
        """One step: counts `chosen` [codes] and feature sums `summed` [codes, d] over all micro-batches and ranks."""
        codebook = self.quantizer.codebook
        self.counts = self.decay * self.counts + (1 - self.decay) * chosen.astype("float32")
        self.sums = self.decay * self.sums + (1 - self.decay) * summed
        counts = self.counts.unsqueeze(-1)
        codebook.set_value(paddle.where(counts > _LEAST, self.sums / counts.clip(min=_LEAST), codebook))

    @paddle.no_grad()
    def restart(self, codes: paddle.Tensor) -> None:
        """Reset the averages of `codes` [M], which have been moved."""
        if codes.shape[0]:
            self.counts = paddle.scatter(self.counts, codes, paddle.ones([codes.shape[0]]))
            self.sums = paddle.scatter(self.sums, codes, self.quantizer.codebook[codes])


@paddle.no_grad()
def sum_by_code(features: paddle.Tensor, indices: paddle.Tensor, codes: int) -> paddle.Tensor:
    """Features [.., d] and their codes [..] -> the sum of the features of each code, [codes, d]."""
    rows = features.flatten(0, -2)
    zeros = paddle.zeros([codes, rows.shape[1]], rows.dtype)
    return paddle.scatter_nd_add(zeros, indices.flatten().unsqueeze(-1), rows)
