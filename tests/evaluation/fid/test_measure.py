"""`vilg evaluate fid` on folders, shards and stored statistics."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import png, write_shard
from vilg.cli import main
from vilg.commands import evaluation
from vilg.evaluation.fid import features as features_module
from vilg.evaluation.fid.features import FeatureExtractor
from vilg.evaluation.fid.protocols import PROTOCOLS


@pytest.fixture
def run(inception_files, capsys):
    """(images, reference, *options) -> (result, what was written to stderr); None for a failure."""
    files = {"dmgan": inception_files["torchvision"][0]}

    def command(images, reference, *options, protocol="tf"):
        weights = files.get(protocol, inception_files["tensorflow"][0])
        arguments = ["--images", str(images), "--reference", str(reference), "--protocol", protocol]
        code = main(["evaluate", "fid", *arguments, "--weights", str(weights), "--json", *map(str, options)])
        out, err = capsys.readouterr()
        return (json.loads(out) if code == 0 else None), err

    return command


def test_equal_sets_and_different_ones(run, folders, caplog):
    equal, _ = run(folders / "real", folders / "real")
    assert abs(equal["FID"]) < 1e-3 and equal["images"] == equal["reference_images"] == 10
    different, _ = run(folders / "drawn", folders / "real")
    assert different["FID"] > 1 and different["KID_x1000"] > equal["KID_x1000"]
    assert "10 images for 2048 features; the FID is far too large" in caplog.text
    assert {"FID_infinity", "protocol", "preprocessing", "weights_sha256", "KID_x1000_deviation"} <= different.keys()


def test_statistics_are_written_and_read_as_pytorch_fid_does(run, folders, tmp_path):
    file = tmp_path / "real.npz"
    direct, _ = run(folders / "drawn", folders / "real", "--save-statistics", file)
    with np.load(file) as stored:
        assert stored["mu"].shape == (2048,) and stored["sigma"].shape == (2048, 2048)
    stored, _ = run(folders / "drawn", file)
    assert stored["FID"] == pytest.approx(direct["FID"], rel=1e-9) and "KID_x1000" not in stored
    _, error = run(folders / "drawn", folders / "real", "--save-statistics", file)
    assert "--overwrite" in error
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(2048), sigma=np.eye(2048))  # without the number of images
    foreign, _ = run(folders / "drawn", tmp_path / "foreign.npz")
    assert foreign["reference_images"] is None and foreign["FID"] > 0


@pytest.mark.parametrize("protocol", ["clean", "dmgan"])
def test_other_protocols(run, folders, protocol):
    result, _ = run(folders / "drawn", folders / "real", protocol=protocol)
    assert result["FID"] > 0 and result["protocol"] == protocol


def test_features_are_cached_by_the_images_the_protocol_and_the_weights(run, folders, tmp_path, monkeypatch):
    first, _ = run(folders / "drawn", folders / "real", "--cache", tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractor, "__call__", lambda *_: pytest.fail("computed again"))
        again, _ = run(folders / "drawn", folders / "real", "--cache", tmp_path / "cache")
    assert again == first
    for file in (tmp_path / "cache").glob("*.npz"):
        file.write_bytes(b"x")
    assert run(folders / "drawn", folders / "real", "--cache", tmp_path / "cache")[0] == first
    run(folders / "drawn", folders / "real", "--cache", tmp_path / "cache", protocol="clean")
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 4


def test_shards_grey_and_transparent_images(run, folders, tmp_path):
    files = {f"{number}.png": png(number) for number in range(3)}
    write_shard(tmp_path / "part-0.tar", files)
    (tmp_path / "mixed").mkdir()
    for number, mode in enumerate(["L", "RGBA", "P", "I;16"]):
        Image.new(mode, (9, 7), 40 if mode in ("L", "P", "I;16") else (10, 20, 30, 128)).save(
            tmp_path / "mixed" / f"{number}.png"
        )
    result, _ = run(tmp_path / "mixed", tmp_path / "part-*.tar")
    assert (result["images"], result["reference_images"]) == (4, 3)


def test_batches_do_not_change_the_features(inception_files, monkeypatch):
    extract = FeatureExtractor("tf", inception_files["tensorflow"][0])
    images = [np.random.default_rng(n).integers(0, 256, [20, 20, 3], np.uint8) for n in range(3)]
    assert np.allclose(extract(images)[1], extract(images[1:2])[0], rtol=1e-4, atol=1e-5)
    assert features_module._AT_ONCE > 3


def test_bad_input(run, folders, tmp_path):
    for place, message in (
        (tmp_path / "nowhere", "nowhere: no such image or shard"),
        (tmp_path, "no image and no shard in this folder"),
    ):
        assert message in run(place, folders / "real")[1]
    (tmp_path / "one").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "one" / "0.png")
    assert "one image has no covariance" in run(tmp_path / "one", folders / "real")[1]
    (tmp_path / "one" / "1.png").write_bytes(png(1)[:60])
    assert "1.png: broken image" in run(tmp_path / "one", folders / "real")[1]
    for name, arrays, message in (
        ("keys", {"mean": np.zeros(3)}, "not statistics of pytorch-fid"),
        ("shape", {"mu": np.zeros(3), "sigma": np.eye(3)}, "2048 wanted"),
        ("nan", {"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "not finite"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        assert message in run(folders / "drawn", tmp_path / f"{name}.npz")[1]
    (tmp_path / "text.npz").write_text("x")
    assert "not statistics of pytorch-fid" in run(folders / "drawn", tmp_path / "text.npz")[1]
    assert "no such file" in run(folders / "drawn", tmp_path / "missing.npz")[1]


def test_the_command_offers_all_protocols():
    assert tuple(PROTOCOLS) == evaluation._PROTOCOLS
