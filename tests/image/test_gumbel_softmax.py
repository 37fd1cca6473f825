"""Gumbel-softmax and the logit-laplace likelihood, against numpy."""

import numpy as np
import paddle

from vilg.image.gumbel import GumbelCode
from vilg.image.gumbel_softmax import gumbel_softmax, kl_to_uniform
from vilg.image.logit_laplace import negative_log_likelihood


def test_code_frequencies_match_their_probabilities():
    """The purpose of Gumbel noise: argmax(logits + noise) is a sample of softmax(logits), at every temperature."""
    paddle.seed(0)
    logits = paddle.to_tensor([0.0, 1.0, 2.0]).expand([20000, 3])
    wanted = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    for heat in (1.0, 0.1):
        chosen = gumbel_softmax(logits, heat, straight_through=True)
        assert np.allclose(chosen.mean(0).numpy(), wanted, atol=0.015)
        assert np.allclose(np.sort(chosen.numpy(), -1), [0, 0, 1], atol=1e-6)


def test_samples_are_soft_at_a_high_temperature_and_one_hot_at_a_low_one():
    paddle.seed(0)
    logits = paddle.randn([1000, 8])
    hot, cold = (gumbel_softmax(logits, heat, straight_through=False).numpy() for heat in (10.0, 1 / 16))
    assert np.allclose(hot.sum(-1), 1, atol=1e-5) and np.allclose(cold.sum(-1), 1, atol=1e-5)
    assert hot.max(-1).mean() < 0.2 and cold.max(-1).mean() > 0.95


def test_the_straight_through_gradient_is_that_of_the_soft_sample():
    gradients, weights = [], paddle.randn([5, 4])
    for straight_through in (True, False):
        paddle.seed(0)
        logits = paddle.arange(20, dtype="float32").reshape([5, 4]) / 10
        logits.stop_gradient = False
        (gumbel_softmax(logits, 0.7, straight_through) * weights).sum().backward()
        gradients.append(logits.grad.numpy())
    assert np.allclose(*gradients, atol=1e-6) and abs(gradients[0]).max() > 0.01


def test_divergence_against_numpy():
    logits = np.random.default_rng(0).standard_normal([2, 3, 6]).astype(np.float32) * 3
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = (share * np.log(share * 6)).sum(-1).mean()
    assert np.isclose(float(kl_to_uniform(paddle.to_tensor(logits))), wanted, rtol=1e-5)
    assert abs(float(kl_to_uniform(paddle.zeros([3, 6])))) < 1e-6


def test_gumbel_quantizes_to_one_code_a_position():
    paddle.seed(0)
    quantizer, features = GumbelCode(6, 3), paddle.randn([2, 4, 4, 3])
    features.stop_gradient = False
    z_emb, indices, divergence = quantizer(features, 1.0)
    distances = ((z_emb.unsqueeze(-2) - quantizer.codebook) ** 2).sum(-1).min(-1)
    assert z_emb.shape == [2, 4, 4, 3] and float(distances.max()) < 1e-8
    assert (indices == quantizer.nearest(features)).all()
    (z_emb.sum() + divergence).backward()
    assert all(abs(value.grad.numpy()).max() > 0 for value in (features, quantizer.codebook, quantizer.proj.weight))


def test_likelihood_against_the_density():
    rng = np.random.default_rng(0)
    x, mean, log_scale = rng.uniform(0.1, 0.9, [2, 3, 4, 4]), *rng.standard_normal([2, 2, 3, 4, 4])
    statistics = paddle.to_tensor(np.concatenate([mean, log_scale], 1).astype(np.float32))
    for least in (0.0, 0.3):
        scale = np.exp(log_scale) + least
        density = np.exp(-abs(np.log(x / (1 - x)) - mean) / scale) / (2 * scale * x * (1 - x))
        found = negative_log_likelihood(paddle.to_tensor(x.astype(np.float32)), statistics, least)
        assert np.isclose(float(found), -np.log(density).mean(), rtol=1e-5)


def test_the_density_integrates_to_one():
    """For a pixel in (0, 1), over the whole interval."""
    x = (np.arange(200000) + 0.5) / 200000
    logit = np.log(x / (1 - x))
    pixels = paddle.to_tensor(x.astype(np.float32).reshape([-1, 1, 1, 1])).expand([-1, 3, 1, 1])
    statistics = paddle.to_tensor(np.array([0.4, 0.4, 0.4, -0.5, -0.5, -0.5], np.float32).reshape([1, 6, 1, 1]))
    one = [float(negative_log_likelihood(pixels[n : n + 1], statistics)) for n in (20, 100000, 199000)]
    scale = np.exp(-0.5)
    density = np.exp(-abs(logit - 0.4) / scale) / (2 * scale * x * (1 - x))
    assert np.isclose(density.mean(), 1, atol=1e-3)
    assert np.allclose(one, -np.log(density[[20, 100000, 199000]]), rtol=1e-3)
