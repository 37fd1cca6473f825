"""A codebook of nearest codes that follows the features instead of a gradient."""

import paddle

from vilg.image.quantizer import NearestCode

_LEAST = 1e-5  # a code of less weight stays where it is: of sums so small a float forgets the direction


class EMACodebook:
    """Each code is the mean of the features that chose it, of which every step weighs 1/decay as much as the one before
    (van den Oord et al., arXiv 1711.00937, equations (6) to (8)). It takes the codebook's gradient away.

    counts [codes] and sums [codes, d] are N and m there. A code begins with weight 1 where it is.
    """

    def __init__(self, quantizer: NearestCode, decay: float):
        self.quantizer, self.decay = quantizer, decay
        quantizer.codebook.stop_gradient = True
        self.counts, self.sums = paddle.ones([quantizer.codebook.shape[0]]), quantizer.codebook.clone()

    @paddle.no_grad()
    def update(self, chosen: paddle.Tensor, summed: paddle.Tensor) -> None:
        """One step: how often each code was chosen, [codes], and the sum of the features that chose it, [codes, d],
        over all micro-batches and ranks."""
        codebook = self.quantizer.codebook
        self.counts = self.decay * self.counts + (1 - self.decay) * chosen.astype("float32")
        self.sums = self.decay * self.sums + (1 - self.decay) * summed
        counts = self.counts.unsqueeze(-1)
        codebook.set_value(paddle.where(counts > _LEAST, self.sums / counts.clip(min=_LEAST), codebook))

    @paddle.no_grad()
    def restart(self, codes: paddle.Tensor) -> None:
        """These codes [M] have been moved; they begin again where they are."""
        if codes.shape[0]:
            self.counts = paddle.scatter(self.counts, codes, paddle.ones([codes.shape[0]]))
            self.sums = paddle.scatter(self.sums, codes, self.quantizer.codebook[codes])


@paddle.no_grad()
def sum_by_code(features: paddle.Tensor, indices: paddle.Tensor, codes: int) -> paddle.Tensor:
    """Features [.., d] and the codes they chose [..] -> the sum of the features of each code, [codes, d]."""
    rows = features.flatten(0, -2)
    zeros = paddle.zeros([codes, rows.shape[1]], rows.dtype)
    return paddle.scatter_nd_add(zeros, indices.flatten().unsqueeze(-1), rows)
