"""The discriminator, its loss, and the adaptive weight."""

import numpy as np
import paddle
import pytest

from vilg.image.patchgan import PatchDiscriminator, adaptive_weight, hinge_loss


@pytest.mark.parametrize("layers, size, patches", [(3, 256, 30), (3, 24, 1), (2, 64, 14), (1, 6, 1)])
def test_the_number_of_patches(layers, size, patches):
    judge = PatchDiscriminator(width=4, layers=layers)
    assert judge(paddle.rand([2, 3, size, size])).shape == [2, 1, patches, patches]
    assert PatchDiscriminator.min_image_side(layers) <= size


def test_the_layers_match_those_of_taming():
    """NLayerDiscriminator(input_nc=3, ndf=64, n_layers=3)."""
    judge = PatchDiscriminator(width=64, layers=3)
    assert [value.shape[0] for value in judge.parameters() if value.ndim == 4] == [64, 128, 256, 512, 1]
    assert sum(value.size for value in judge.parameters() if not value.stop_gradient) == 2765633
    assert abs(float(judge[2].weight.std()) - 0.02) < 1e-3


def test_hinge_against_numpy():
    real, drawn = np.random.default_rng(0).standard_normal([2, 3, 1, 4, 4]).astype(np.float32) * 2
    wanted = 0.5 * (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + drawn).mean())
    assert np.isclose(float(hinge_loss(paddle.to_tensor(real), paddle.to_tensor(drawn))), wanted)


def test_the_adaptive_weight_is_a_ratio_of_norms_with_a_limit():
    reconstruction, adversarial = paddle.randn([3, 4]), paddle.randn([3, 4])
    wanted = np.linalg.norm(reconstruction.numpy()) / (np.linalg.norm(adversarial.numpy()) + 1e-4)
    assert np.isclose(float(adaptive_weight(reconstruction, adversarial)), wanted)
    assert float(adaptive_weight(reconstruction * 100, adversarial * 0)) == 1e4
