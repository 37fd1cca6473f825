"""Sampling of tokens, against numpy."""

import math

import numpy as np
import pytest

from vilg.errors import UserError
from vilg.generation.sampling import PerSampleSampler, Sampler, probabilities

LOGITS = np.array([[0.0, 1.0, 2.0, 3.0], [3.0, 3.0, -1.0, 0.0]])


def test_top_k_probabilities_are_a_softmax_over_the_k_largest_logits():
    weights = np.exp(LOGITS[0] / 0.5)
    assert np.allclose(probabilities(LOGITS, 0.5, 0)[0], weights / weights.sum())
    kept = np.array([0, 0, weights[2], weights[3]])
    assert np.allclose(probabilities(LOGITS, 0.5, 2)[0], kept / kept.sum())
    assert np.allclose(probabilities(LOGITS, 1.0, 1)[0], [0, 0, 0, 1])
    assert np.allclose(probabilities(LOGITS, 1.0, 9), probabilities(LOGITS, 1.0, 0))


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_top_p_is_the_smallest_set_that_reaches_it(top_p):
    logits = np.random.default_rng(0).normal(size=[20, 50])
    for row, found in zip(probabilities(logits, 0.8, 0), probabilities(logits, 0.8, 0, top_p)):
        kept, total = [], 0.0
        for token in sorted(range(50), key=lambda token: -row[token]):
            if total >= top_p and kept:
                break
            kept.append(token)
            total += row[token]
        expected = np.zeros(50)
        expected[kept] = row[kept] / row[kept].sum()
        assert np.allclose(found, expected)


def test_the_lowest_temperature_is_greedy():
    assert probabilities(LOGITS, 1e-310, 0)[0].tolist() == [0, 0, 0, 1]


def reference_probabilities(row, temperature, top_k, top_p):
    """For each row: the tokens that are at least as likely as the k-th, and of these, in descending order, as many as
    reach p.
    """
    lowest = sorted(row, reverse=True)[: top_k or None][-1]
    weights = [math.exp(logit / temperature) if logit >= lowest else 0.0 for logit in row]
    found, reached = np.zeros(len(row)), 0.0
    for token in sorted(range(len(row)), key=lambda token: -row[token]):  # the first of equal ones
        if top_p == 1 or reached < top_p * sum(weights):
            found[token] = weights[token]
        reached += weights[token]
    return found / found.sum()


@pytest.mark.parametrize("top_p", [1e-9, 0.47, 0.83, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 3, 7, 12, 99])
def test_top_k_comes_before_top_p(top_k, top_p):
    both = probabilities(LOGITS, 1.0, 2, 0.9)
    assert (np.count_nonzero(both, axis=-1) <= 2).all() and np.allclose(both.sum(-1), 1)
    rng = np.random.default_rng(top_k)
    logits = np.concatenate([rng.normal(size=[40, 12]), rng.integers(0, 4, [40, 12])])  # the latter with ties
    for row, found in zip(logits, probabilities(logits, 1.3, top_k, top_p)):
        assert np.allclose(found, reference_probabilities(row, 1.3, top_k, top_p))


def test_sample_frequencies_match_the_probabilities():
    choose = Sampler(seed=1, temperature=0.7, top_k=3).start(1, 2)
    sampled = np.array([choose(LOGITS) for _ in range(4000)])
    expected = probabilities(LOGITS, 0.7, 3)
    for row in range(2):
        assert np.allclose(np.bincount(sampled[:, row], minlength=4) / 4000, expected[row], atol=0.03)
    assert (sampled[:, 0] != 0).all()  # excluded by top-k


def test_a_sample_depends_on_its_seed_and_not_on_its_batch():
    wide = Sampler(seed=4).start(2, 3)
    single = [Sampler(seed=4 + sample).start(1, 1) for sample in range(3)]
    sampled = [(wide(np.tile(LOGITS[:1], (6, 1))), [choose(LOGITS[:1])[0] for choose in single]) for _ in range(50)]
    assert all(np.array_equal(together, [*apart, *apart]) for together, apart in sampled)
    assert len({tuple(together) for together, _ in sampled}) > 10


def test_each_source_has_its_own_sampler():
    one, two = Sampler(seed=4, temperature=0.5), Sampler(greedy=True)
    both, single = PerSampleSampler([one, two]).start(2, 2), one.start(1, 2)
    for _ in range(20):
        chosen = both(LOGITS[[0, 0, 1, 1]])
        assert np.array_equal(chosen[:2], single(LOGITS[[0, 0]])) and chosen[2:].tolist() == [0, 0]


def test_greedy_takes_the_most_likely_token():
    assert Sampler(greedy=True).start(1, 2)(LOGITS).tolist() == [3, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"top_k": -1},
        {"temperature": float("nan")},
        {"seed": -1},
        {"seed": 2**63},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"greedy": True, "temperature": 0.5},
        {"greedy": True, "top_k": 3},
        {"greedy": True, "top_p": 0.9},
    ],
)
def test_invalid_settings(settings):
    with pytest.raises(UserError):
        Sampler(**settings)
