"""The data set of eleven styles, built from small packages, and from the real ones where npm can download them."""

import io
import json
import os
import shutil
import tarfile
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from tests.data.styles.packages import ICONS, write_packages
from vilg.cli import main
from vilg.data.styles import packages
from vilg.data.styles.builder import build
from vilg.data.styles.catalogue import BY_NAME, STYLES
from vilg.data.styles.equal_pictures import equal_pairs, reduced
from vilg.data.styles.splits import COMBINATION, EMOJI, PARTS, TRAIN
from vilg.errors import UserError

for package in ("emoji", "resvg_py"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'vilg[demo]'")


def samples(folder, part):
    """[(description, PNG)] of a part."""
    found = []
    for shard in sorted(folder.glob(f"{part}-*.tar")):
        with tarfile.open(shard) as archive:
            contents = {member.name: archive.extractfile(member).read() for member in archive}
        found += [
            (json.loads(contents[name]), contents[name.replace(".json", ".png")])
            for name in contents
            if name.endswith(".json")
        ]
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("styles")
    return folder / "out", build(folder / "out", write_packages(folder / "packages"))


def test_every_drawing_is_in_one_part(small):
    folder, counts = small
    found = [(sample["emoji"], sample["style"]) for part in PARTS for sample, _ in samples(folder, part)]
    assert len(found) == len(set(found)) == sum(counts.values()) == len(ICONS) * len(STYLES)
    assert counts == {part: len(samples(folder, part)) for part in PARTS}


def test_a_sample(small):
    folder, _ = small
    everything = [one for part in PARTS for one in samples(folder, part)]
    description, png = next(one for one in everything if one[0]["emoji"] == "🍎" and one[0]["style"] == "fluent-emoji")
    assert description["names"][0] == "红苹果" and "立体风格的红苹果" in description["captions"]
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (128, 128, 3) and (pixels[:6] == 255).all() and (pixels < 255).any()


def test_the_table_of_licences(small):
    folder, _ = small
    lines = (folder / "LICENCES.md").read_text("utf-8").splitlines()
    rows = [line for line in lines if "@iconify-json/" in line]
    assert len(rows) == len(STYLES)
    assert all("Nobody" in row and "[CC BY 4.0](https://example.org/licence)" in row for row in rows)


def test_the_command(tmp_path, capsys):
    write_packages(tmp_path / "packages")
    command = ["data", "emoji", "--styles", "--out", str(tmp_path / "out"), "--packages", str(tmp_path / "packages")]
    assert main(command) == 0
    assert "pictures in train-*.tar" in capsys.readouterr().out
    assert main(command) == 1
    assert "already contains shards" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "emoji", "--out", str(tmp_path / "other")])
    assert "--styles" in capsys.readouterr().err


def test_packages_that_are_missing_are_named(tmp_path):
    folder = write_packages(tmp_path / "packages")
    shutil.rmtree(folder / "iconify-json-noto-1.2.9")
    with pytest.raises(UserError, match="@iconify-json/noto missing"):
        build(tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()


def test_without_npm_the_message_says_how_to_bring_the_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"npm, which downloads them, is not installed; .*npm pack @iconify-json/openmoji@"
    ):
        build(tmp_path / "out")


def test_a_failed_download_is_reported(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"npm pack @iconify-json/openmoji@1\.2\.29: npm error code E404; try again"):
        build(tmp_path / "out")


def test_another_version_is_logged(tmp_path, caplog):
    folder = write_packages(tmp_path / "packages")
    (folder / "iconify-json-noto-1.2.9").rename(folder / "iconify-json-noto-1.3.0")
    (folder / "iconify-json-noto-1.3.0/package/package.json").write_text('{"version": "1.3.0"}')
    build(tmp_path / "out", folder)
    assert "version 1.3.0, but the splits are made for 1.2.9" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"icons": []}', '{"icons": {"rocket": {}}}', '{"icons": {"rocket": {"body": 3}}}']
)
def test_a_damaged_package_is_named(content, tmp_path):
    folder = write_packages(tmp_path / "packages")
    (folder / "iconify-json-noto-1.2.9/package/icons.json").write_text(content)
    with pytest.raises(UserError, match=r"iconify-json-noto-1\.2\.9/package: cannot be read as drawings of noto"):
        build(tmp_path / "out", folder)


@pytest.mark.parametrize("bad", ["<rect", "", "<g></g>", '<image href="http://192.0.2.1/x.png"/>'])
def test_drawings_that_cannot_be_rendered_are_named_counted_and_skipped(bad, tmp_path, caplog):
    def change(icons):
        icons["icons"]["rocket"]["body"] = bad

    folder = write_packages(tmp_path / "packages", noto=change)
    counts = build(tmp_path / "out", folder, max_bad_samples=1)
    assert sum(counts.values()) == len(ICONS) * len(STYLES) - 1
    assert "skipped noto 1f680: the SVG" in caplog.text and "(1 of at most 1)" in caplog.text
    with pytest.raises(UserError, match="1 broken samples, more than max_bad_samples=0"):
        build(tmp_path / "strict", folder, max_bad_samples=0)
    assert not (tmp_path / "strict").exists()


def test_aliases_that_lead_in_a_circle_are_no_drawing(tmp_path):
    def change(icons):
        del icons["icons"]["rocket"]
        icons["aliases"] = {"rocket": {"parent": "spaceship"}, "spaceship": {"parent": "rocket"}}

    counts = build(tmp_path / "out", write_packages(tmp_path / "packages", noto=change))
    assert sum(counts.values()) == len(ICONS) * len(STYLES) - 1


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("real")
    try:
        packages.fetch(folder / "packages")
    except UserError as error:
        pytest.skip(f"the packages cannot be downloaded: {error}")
    return folder / "out", build(folder / "out", folder / "packages")


def test_the_real_drawings(real):
    folder, counts = real
    assert counts == {TRAIN: 14970, COMBINATION: 367, EMOJI: 505}
    parts = {part: samples(folder, part) for part in PARTS}
    training = defaultdict(set)
    for description, _ in parts[TRAIN]:
        training[description["emoji"]].add(description["style"])
    for description, _ in parts[COMBINATION]:
        own, others = BY_NAME[description["style"]], training[description["emoji"]]
        assert own.name not in others and len(others) >= 4
        siblings = {style.name for style in STYLES if style.family == own.family and style is not own}
        assert description["sibling_in_train"] == bool(siblings & others)
    assert not {description["emoji"] for description, _ in parts[EMOJI]} & set(training)


def test_no_held_out_picture_is_equal_to_the_eye_to_one_of_the_training_data(real):
    folder, _ = real
    small = {part: [reduced(Image.open(io.BytesIO(png))) for _, png in samples(folder, part)] for part in PARTS}
    assert equal_pairs(small[COMBINATION] + small[EMOJI], small[TRAIN]) == []
    assert equal_pairs(small[TRAIN][:2000], small[TRAIN])  # each is equal to itself
