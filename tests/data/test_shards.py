"""Reading webdataset tars: the format of img2dataset, and all kinds of broken shards."""

import io
import json
import logging
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.conftest import pair, png, write_shard
from vilg import config
from vilg.data import decode
from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.loader import all_samples, training_batches
from vilg.data.shard_index import build_index, open_index
from vilg.data.shards import Record, Shards, expand
from vilg.errors import UserError


def names(shards):
    return [shards.name(number).split(":")[-1] for number in range(len(shards))]


def test_reads_what_img2dataset_writes(tmp_path):
    files = {
        "000000001.jpg": jpeg(1),
        "000000001.txt": "一只猫".encode(),
        "000000001.json": json.dumps({"caption": "一只猫", "width": 20}).encode(),
        "sub/000000002.webp": webp(2),
        "sub/000000002.txt": "两只狗\n".encode(),
    }
    write_shard(tmp_path / "a.tar", files)
    shards = Shards([tmp_path / "a.tar"], BadSamples(0))
    assert names(shards) == ["000000001", "sub/000000002"]
    assert [decode.decode_captions(shards[n]) for n in range(2)] == [["一只猫"], ["两只狗"]]
    assert decode.decode_image(shards[1]).size == (20, 20)


def jpeg(number):
    return reencoded(number, "JPEG")


def webp(number):
    return reencoded(number, "WEBP")


def reencoded(number, kind):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(number))).save(buffer, kind)
    return buffer.getvalue()


def test_several_captions_and_unicode_normalization():
    record = Record("x", b"", json.dumps({"captions": ["e\u0301cole", " 学校 ", ""]}).encode(), True)
    assert decode.decode_captions(record) == ["\u00e9cole", "学校"]


@pytest.mark.parametrize(
    "caption, is_json",
    [
        (b"", False),
        (b"  \n", False),
        (b"\xff\xfe", False),
        (b"{", True),
        (b"[]", True),
        (b"{}", True),
        (b'{"caption": null}', True),
        (b'{"caption": "  "}', True),
        (b'{"captions": []}', True),
        (rb'{"caption": "half of \ud83d"}', True),
    ],
)
def test_broken_captions(caption, is_json):
    with pytest.raises(BadSampleError, match="caption"):
        decode.decode_captions(Record("x", b"", caption, is_json))


@pytest.mark.parametrize("image", [b"", b"not a picture", png(1)[:60], png(1)[:-30]])
def test_broken_images(image):
    with pytest.raises(BadSampleError, match="broken image"):
        decode.decode_image(Record("x", image, b"", False))


def test_decoding_an_image_starts_no_program():
    """PIL would pass PostScript to Ghostscript."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    with pytest.raises(BadSampleError, match="broken image .not one of PNG"):
        decode.decode_image(Record("x", postscript, b"", False))


def test_transparent_parts_are_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(buffer, "PNG")
    assert decode.decode_image(Record("x", buffer.getvalue(), b"", False)).getpixel((0, 0)) == (255, 255, 255)


def test_index_is_built_once_and_again_when_the_tar_changes(tmp_path, monkeypatch):
    shard = tmp_path / "a.tar"
    write_shard(shard, pair(1))
    first = open_index(shard)
    with monkeypatch.context() as patch:
        patch.setattr("vilg.data.shard_index.build_index", lambda shard: pytest.fail("built again"))
        assert np.array_equal(open_index(shard).images, first.images)
    write_shard(shard, pair(1) | pair(2))
    assert len(open_index(shard)) == 2


def test_an_index_has_the_permissions_of_any_new_file(tmp_path):
    """Otherwise other users would build it again."""
    write_shard(tmp_path / "a.tar", pair(0))
    (tmp_path / "reference").touch()
    open_index(tmp_path / "a.tar")
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir() if path.suffix != ".tar"}
    assert set(modes) == {"a.tar.index.npz", "reference"} and len(set(modes.values())) == 1


@pytest.mark.parametrize("find_damage", [b"", b"PK\x03\x04 half a zip", b"\x00" * 100])
def test_a_damaged_index_is_built_again(tmp_path, find_damage):
    shard = tmp_path / "a.tar"
    write_shard(shard, pair(1))
    open_index(shard)
    (tmp_path / "a.tar.index.npz").write_bytes(find_damage)
    assert len(open_index(shard)) == 1


def test_an_index_that_cannot_be_stored_is_only_a_warning(tmp_path, monkeypatch, caplog):
    shard = tmp_path / "a.tar"
    write_shard(shard, pair(1))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vilg.data.shard_index.write_atomically", refuse)
    with caplog.at_level(logging.WARNING):
        assert len(open_index(shard)) == 1
    assert "the index cannot be stored" in caplog.text


@pytest.mark.parametrize("cut", ["in the last picture", "in a header", "before the end mark", "at a member's end"])
def test_truncated_tar(tmp_path, cut):
    whole, shard = tmp_path / "whole.tar", tmp_path / "a.tar"
    write_shard(whole, {k: v for n in range(3) for k, v in pair(n).items()})
    index = build_index(whole)
    assert not index.truncated
    last_image = int(index.images[2, 0])
    end = int(index.captions[2].sum())
    size = {
        "in the last picture": last_image + 100,
        "in a header": last_image - 200,
        "before the end mark": end,
        "at a member's end": -(-end // 512) * 512,
    }[cut]
    shutil.copy(whole, shard)
    os.truncate(shard, size)
    bad_samples = BadSamples(5)
    shards = Shards([shard], bad_samples)
    assert build_index(shard).truncated
    complete = 2 if cut.startswith("in") else 3
    assert len(shards) == complete and all(decode.decode_image(shards[n]) for n in range(complete))
    with pytest.raises(UserError, match="a.tar: the tar is truncated"):
        Shards([shard], BadSamples(0))


def test_a_tar_truncated_after_indexing_is_an_error(tmp_path):
    shard = tmp_path / "a.tar"
    write_shard(shard, pair(0) | pair(1))
    shards = Shards([shard], BadSamples(0))
    os.truncate(shard, 600)
    with pytest.raises(BadSampleError, match="ended early"):
        shards[1]


def test_bad_samples_are_named_counted_and_skipped_up_to_the_limit(tmp_path, caplog):
    files = {k: v for n in range(4) for k, v in pair(n).items()}
    del files["00001.json"], files["00002.png"]
    files["00003.png"] = b"broken"
    write_shard(tmp_path / "a.tar", files)
    data = config.Data(shards=[str(tmp_path / "a.tar")], image_size=16, max_bad_samples=3)
    with caplog.at_level(logging.WARNING):
        assert [sample.name[-5:] for sample, _ in all_samples(data, data.shards)] == ["00000"]
    for part in ("00001: no caption", "00002: no image", "00003: broken image", "3 of at most 3"):
        assert part in caplog.text
    strict = config.Data(shards=data.shards, image_size=16, max_bad_samples=2)
    with pytest.raises(UserError, match="more than max_bad_samples=2"):
        list(all_samples(strict, strict.shards))
    with pytest.raises(UserError, match="more than max_bad_samples=2"):
        batches = training_batches(strict, 1, 1, 0, 1, 0, lambda caption: np.zeros(4))
        for _ in range(4):
            next(batches)


def test_a_bad_sample_is_counted_once():
    bad_samples = BadSamples(1)
    for _ in range(5):
        bad_samples.add("a.tar:1", "broken")
    assert len(bad_samples) == 1


def test_missing_files_and_files_of_other_formats(tmp_path):
    with pytest.raises(UserError, match="no such shard"):
        expand([str(tmp_path / "none-*.tar")])
    (tmp_path / "text.tar").write_text("hello")
    with pytest.raises(UserError, match="text.tar: not a readable tar"):
        Shards([tmp_path / "text.tar"], BadSamples(0))
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(UserError, match="no usable sample"):
        Shards([tmp_path / "empty.tar"], BadSamples(9))
