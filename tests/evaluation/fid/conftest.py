"""Random weights of Inception in the two published formats, and images."""

import numpy as np
import pytest
from PIL import Image

from tests.image.torch_writer import New, write
from vilg.evaluation.fid import weights
from vilg.evaluation.fid.inception import VERSIONS, Inception


def random_weights(version: str) -> dict[str, np.ndarray]:
    """Random tensors under the names of the published files."""
    rng, tensors = np.random.default_rng(0), {}
    names = weights._TENSORFLOW if version == "tensorflow" else weights._TORCHVISION
    for name, convolution in zip(names, Inception(VERSIONS[version]).convolutions(), strict=True):
        outputs, inputs, height, width = convolution.weight.shape
        kernel = rng.normal(0, (2 / (inputs * height * width)) ** 0.5, convolution.weight.shape)
        mean, shift = rng.normal(0, 0.1, [2, outputs])
        variance, gain = rng.uniform(0.5, 1.5, [2, outputs])
        if version == "tensorflow":
            parts = {"weight": kernel, "beta": shift, "mean": mean, "var": variance}
            tensors |= {f"{name}.{part}": value.astype(np.float32) for part, value in parts.items()}
        else:
            parts = {"weight": gain, "bias": shift, "running_mean": mean, "running_var": variance}
            tensors |= {f"{name}.bn.{part}": value.astype(np.float32) for part, value in parts.items()}
            tensors[f"{name}.conv.weight"] = kernel.astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def inception_files(tmp_path_factory):
    """{version: (file, tensors)}"""
    folder, files = tmp_path_factory.mktemp("inception"), {}
    for version in VERSIONS:
        tensors = random_weights(version)
        tree = tensors if version == "torchvision" else scripted(tensors)
        write(folder / f"{version}.pt", tree, legacy=False)
        files[version] = folder / f"{version}.pt", tensors
    return files


def scripted(tensors: dict[str, np.ndarray]) -> New:
    """The tree of a scripted module."""
    tree: dict = {}
    for name, value in tensors.items():
        *path, last = f"net.layers.{name}".split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value

    def module(node):
        return New(
            "__torch__ Module",
            {name: module(value) if isinstance(value, dict) else value for name, value in node.items()},
        )

    return module(tree)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Two folders of ten small images each."""
    root = tmp_path_factory.mktemp("images")
    for name, seed in (("real", 0), ("drawn", 1)):
        (root / name / "inside").mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for number in range(10):
            pixels = rng.integers(0, 256, [8, 8, 3], np.uint8)
            place = root / name / ("inside" if number % 2 else ".") / f"{number}.png"
            Image.fromarray(pixels).resize((40, 32)).save(place)
    return root
