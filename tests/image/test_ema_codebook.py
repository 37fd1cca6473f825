"""The codebook with moving averages, against numpy."""

import numpy as np
import paddle

from vilg.image.ema_codebook import EMACodebook, sum_by_code
from vilg.image.quantizer import NearestCode


def test_against_numpy():
    paddle.seed(0)
    quantizer = NearestCode(4, 3)
    average = EMACodebook(quantizer, decay=0.9)
    codes = quantizer.codebook.numpy()
    counts, sums = np.ones(4), codes.copy()
    for _ in range(5):
        features = paddle.randn([2, 3, 3])
        indices = quantizer.nearest(features)
        chosen = paddle.bincount(indices.flatten(), minlength=4)
        average.update(chosen, sum_by_code(features, indices, 4))
        one_hot = np.eye(4)[indices.numpy().ravel()]
        counts = 0.9 * counts + 0.1 * one_hot.sum(0)
        sums = 0.9 * sums + 0.1 * one_hot.T @ features.numpy().reshape(-1, 3)
        assert np.allclose(quantizer.codebook.numpy(), sums / counts[:, None], atol=1e-5)


def test_the_codebook_has_no_gradient_and_the_encoder_has_one():
    quantizer = NearestCode(4, 3)
    EMACodebook(quantizer, decay=0.9)
    features = paddle.randn([5, 3])
    features.stop_gradient = False
    z_emb, _, _, commitment_term = quantizer(features)
    (z_emb.sum() + commitment_term).backward()
    assert quantizer.uses_ema and quantizer.codebook.grad is None and features.grad is not None


def test_an_unused_code_stays_and_recovers_with_one_step():
    quantizer = NearestCode(2, 3)
    average, codes = EMACodebook(quantizer, decay=0.5), quantizer.codebook.numpy()
    for _ in range(200):
        average.update(paddle.to_tensor([1, 0]), paddle.to_tensor([[1.0, 2, 3], [0, 0, 0]]))
    assert np.allclose(quantizer.codebook.numpy(), [[1, 2, 3], codes[1]], atol=1e-6)
    average.update(paddle.to_tensor([0, 2]), paddle.to_tensor([[0.0, 0, 0], [8, 10, 12]]))
    assert np.allclose(quantizer.codebook.numpy(), [[1, 2, 3], [4, 5, 6]], atol=1e-5)


def test_a_restarted_code_has_fresh_averages():
    quantizer = NearestCode(3, 2)
    average = EMACodebook(quantizer, decay=0.9)
    quantizer.codebook.set_value(paddle.scatter(quantizer.codebook, paddle.to_tensor([2]), paddle.ones([1, 2]) * 7))
    average.restart(paddle.to_tensor([2]))
    average.update(paddle.zeros([3]), paddle.zeros([3, 2]))
    assert np.allclose(quantizer.codebook.numpy()[2], 7)
