"""`vilg bench tokenize`: images per second of the three image tokenizers, compared with the matmul rate."""

from collections.abc import Callable
from math import prod
from unittest import mock

import paddle
from paddle import nn

from vilg import config
from vilg.bench.timing import matmul_rate, milliseconds
from vilg.image import KINDS
from vilg.image.tokenizer import ImageTokenizer

# Default sizes with random weights: the published GumbelVQ f8 and dVAE, and our VQ-VAE.
SETTINGS = {"vqvae": config.VQVAE, "vqgan": config.VQGAN, "dvae": config.DVAE}


def bench(sizes: list[int], batch: int, repeats: int) -> dict:
    """Returns {"matmul_gflops": .., "batch": .., "rows": [..]}, one row for each kind of tokenizer and image size.

    `images_per_second` is the rate of `encode` with batches of `batch`. `matmul_share` relates its convolutions and
    products to the time of one large product with as many operations.
    """
    rate, rows = matmul_rate(), []
    for kind, settings in SETTINGS.items():
        paddle.seed(0)
        tokenizer = KINDS[kind][0](settings())
        tokenizer.eval()
        for size in sizes:
            tokenizer.grid(size)  # raises for an unsuitable image size
            rows.append({"kind": kind, "size": size, **_measured(tokenizer, size, batch, repeats, rate)})
    return {"matmul_gflops": rate, "batch": batch, "rows": rows}


@paddle.no_grad()
def _measured(tokenizer: ImageTokenizer, size: int, batch: int, repeats: int, rate: float) -> dict[str, float]:
    images = paddle.rand([batch, 3, size, size])
    work = operations(tokenizer, lambda: tokenizer.encode(images))
    seconds = milliseconds(lambda: tokenizer.encode(images), repeats) / 1e3
    return {
        "codes": prod(tokenizer.grid(size)),
        "gflop_per_image": work / batch / 1e9,
        "images_per_second": batch / seconds,
        "matmul_share": work / seconds / 1e9 / rate,
    }


def operations(model: nn.Layer, call: Callable[[], object]) -> int:
    """Operations of convolutions, linear layers and products during a call. A multiplication and an addition are two
    operations.

    Each output element of a convolution with weight [out, in, k, k] takes in x k x k multiplications; each output
    element of a linear layer with weight [in, out] takes `in` multiplications.
    """
    counted = []

    def applied(layer, inputs, output):
        shape = layer.weight.shape
        counted.append(2 * output.size * (shape[0] if isinstance(layer, nn.Linear) else prod(shape[1:])))

    def multiplied(a, b, *rest, **named):
        product = matmul(a, b, *rest, **named)
        counted.append(2 * product.size * a.shape[-2 if named.get("transpose_x") else -1])
        return product

    matmul = paddle.matmul
    hooks = [
        layer.register_forward_post_hook(applied)
        for layer in model.sublayers()
        if isinstance(layer, (nn.Conv2D, nn.Linear))
    ]
    with mock.patch.object(paddle, "matmul", multiplied):  # products of attention and distances, which are not layers
        call()
    for hook in hooks:
        hook.remove()
    return sum(counted)


def table(result: dict) -> str:
    """The result as text."""
    lines = [
        f"encoding batches of {result['batch']}, matmul {result['matmul_gflops']:.0f} GFLOP/s",
        f"{'kind':6} {'pixels':>6} {'codes':>6} {'GFLOP/image':>12} {'images/s':>9} {'of matmul':>9}",
    ]
    return "\n".join(
        lines
        + [
            f"{row['kind']:6} {row['size']:6} {row['codes']:6} {row['gflop_per_image']:12.2f} "
            f"{row['images_per_second']:9.2f} {row['matmul_share']:9.2f}"
            for row in result["rows"]
        ]
    )
