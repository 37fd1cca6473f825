"""Destinations of generated images: checked before anything is generated, complete or absent, and resumable."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from vilg.errors import UserError
from vilg.generation import writers
from vilg.generation.writers import INDEX, open_writer

TEXTS = ["红苹果", "大象", "太阳"]
REQUEST = {"text": "", "seeds": [], "scores": None, "guidance": 1.0, "sampler": {"seed": 3}, "model": "m"}
IMAGES = np.random.default_rng(0).random([3, 2, 3, 8, 8], dtype=np.float32)


def metadata(number):
    return {**REQUEST, "text": TEXTS[number], "seeds": [3, 4], "scores": [-1.0, -2.0]}


def write(out, texts=TEXTS, stop=None, **options):
    """Write all texts, or stop in front of number `stop`. Returns the number of texts that were written before."""
    writer = open_writer(out, texts, 2, **options)
    remaining = writer.start(REQUEST, 8)
    for number in remaining:
        if stop is None or number < stop:
            writer.write(number, IMAGES[number], metadata(number))
    if stop is None:
        writer.finish()
    return len(texts) - len(remaining)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp", ".bmp", ".tiff"])
def test_one_file(tmp_path, suffix):
    out = tmp_path / "deep" / f"x{suffix}"
    write(out)
    assert Image.open(out).width == max(20, 112)  # two images and a gap, or eight characters
    rows = json.loads((out.parent / f"x{suffix}.json").read_text("utf-8"))
    assert [row["text"] for row in rows] == TEXTS
    if suffix == ".png":
        assert json.loads(Image.open(out).text["vilg"]) == rows
    assert len(os.listdir(out.parent)) == 2


def test_files_of_one_name_do_not_share_their_metadata(tmp_path):
    (tmp_path / "config.json").write_text("mine")
    for name in ("config.png", "config.jpg"):
        write(tmp_path / name, TEXTS[:1])
    assert (tmp_path / "config.json").read_text() == "mine" and len(os.listdir(tmp_path)) == 5


@pytest.mark.parametrize("name", ["x.png", "x.png.json"])
def test_an_existing_file_is_replaced_only_on_demand(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name}: exists already; --overwrite replaces it"):
        open_writer(tmp_path / "x.png", TEXTS, 2)
    assert (tmp_path / name).read_text() == "mine"
    write(tmp_path / "x.png", overwrite=True)
    assert Image.open(tmp_path / "x.png").size[0] == 112


@pytest.mark.parametrize(
    "name, texts, message",
    [
        ("x.txt", TEXTS, "neither a folder nor an image file; use one of .png, .jpg"),
        ("x.xbm", TEXTS, "neither a folder nor an image file"),
        ("x.ico", TEXTS, "neither a folder nor an image file"),
        ("x.webp", TEXTS * 500, "pixels, but WEBP has at most 16383 on a side; use a folder"),
        ("x.jpg", TEXTS * 2000, "pixels, but JPEG has at most 65500 on a side; use a folder"),
        ("folder/x.png", TEXTS, "folder/x.png.json is a folder"),
        ("file/x.png", TEXTS, "file: not a directory|file: file exists"),
        ("file", TEXTS, "a file is there"),
        ("n" * 300 + ".png", TEXTS, "file name too long"),
    ],
)
def test_errors_are_found_before_anything_is_generated(tmp_path, name, texts, message):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / "x.png.json").mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        open_writer(tmp_path / name, texts, 2).start(REQUEST, 8)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="permission denied; check its permissions"):
        open_writer(tmp_path / "x.png", TEXTS, 2)


def test_a_full_disk_leaves_the_older_image(tmp_path, monkeypatch):
    write(tmp_path / "x.png")
    before = contents(tmp_path)

    def full(file, data):
        raise UserError(f"{file}: no space left on device")

    monkeypatch.setattr(writers, "write_atomically", full)
    with pytest.raises(UserError, match="no space left"):
        write(tmp_path / "x.png", overwrite=True)
    assert contents(tmp_path) == before


def test_a_folder_has_each_image_in_a_file(tmp_path):
    write(tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        *(f"000{text}-0{number}.png" for text in (1, 2, 3) for number in (1, 2)),
        INDEX,
    ]
    rows = [json.loads(line) for line in (tmp_path / "out" / INDEX).read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == TEXTS and rows[1]["files"] == ["0002-01.png", "0002-02.png"]
    assert json.loads(Image.open(tmp_path / "out" / "0002-02.png").text["vilg"])["seeds"] == [4]


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
@pytest.mark.parametrize("cut", [False, True])
def test_an_interrupted_folder_is_resumed(tmp_path, stop, cut):
    """Also if the process was killed while it wrote a line of the index."""
    write(tmp_path / "whole")
    write(tmp_path / "out", stop=stop)
    if cut:
        with (tmp_path / "out" / INDEX).open("a") as index:
            index.write('{"text": "大')
        (tmp_path / "out" / ".0004-01.png.17-ab").write_bytes(b"half")
    if stop or cut:
        with pytest.raises(UserError, match=f"already contains images of {stop} texts; --resume continues"):
            open_writer(tmp_path / "out", TEXTS, 2)
    assert write(tmp_path / "out", resume=True) == stop
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_only_the_same_request_is_resumed(tmp_path):
    write(tmp_path / "out", stop=2)
    for change, message in (
        ({"guidance": 2.0}, "text 1 of .* was generated with guidance 1.0, this request has 2.0"),
        ({"sampler": {"seed": 4}}, "sampler"),
        ({"model": "other"}, "model 'm', this request has 'other'"),
    ):
        with pytest.raises(UserError, match=f"--resume: .*{message}"):
            open_writer(tmp_path / "out", TEXTS, 2, resume=True).start({**REQUEST, **change}, 8)
    with pytest.raises(UserError, match="--resume: text 2 of .* was generated with text '大象', this request has '鱼'"):
        open_writer(tmp_path / "out", ["红苹果", "鱼"], 2, resume=True).start(REQUEST, 8)
    with pytest.raises(UserError, match="text 2 .* this request has None"):
        open_writer(tmp_path / "out", ["红苹果"], 2, resume=True).start(REQUEST, 8)


def test_overwriting_a_folder_removes_what_it_listed(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out" / "mine.png").write_text("mine")
    write(tmp_path / "out", TEXTS[:1], overwrite=True)
    assert sorted(os.listdir(tmp_path / "out")) == ["0001-01.png", "0001-02.png", INDEX, "mine.png"]


def test_contradictory_options(tmp_path):
    with pytest.raises(UserError, match="--overwrite and --resume: use one"):
        open_writer(tmp_path / "out", TEXTS, 2, overwrite=True, resume=True)
    with pytest.raises(UserError, match="--resume: .*x.png is one file"):
        open_writer(tmp_path / "x.png", TEXTS, 2, resume=True)


def test_a_damaged_index(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out" / INDEX).write_text("?\n")
    with pytest.raises(UserError, match=f"{INDEX}: line 1 is not JSON"):
        open_writer(tmp_path / "out", TEXTS, 2, resume=True).start(REQUEST, 8)


def write_share(out, share, stop=None, **options):
    """Write the texts of one of several processes. Returns their numbers."""
    writer = open_writer(out, TEXTS, 2, share=share, **options)
    remaining = writer.start(REQUEST, 8)
    for number in remaining[:stop]:
        writer.write(number, IMAGES[number], metadata(number))
    return remaining


def images_of(folder):
    return {name: content for name, content in contents(folder).items() if name.endswith(".png")}


def test_several_processes_divide_the_texts(tmp_path):
    write(tmp_path / "whole")
    writers = [open_writer(tmp_path / "out", TEXTS, 2, share=(rank, 2)) for rank in (0, 1)]  # before any of them writes
    for writer, expected in zip(writers, ([0, 2], [1])):
        assert writer.start(REQUEST, 8) == expected
        for number in expected:
            writer.write(number, IMAGES[number], metadata(number))
    assert images_of(tmp_path / "out") == images_of(tmp_path / "whole")
    rows = [line for rank in (0, 1) for line in (tmp_path / "out" / f"index-{rank}.jsonl").read_text().splitlines()]
    assert sorted(json.loads(line)["files"][0] for line in rows) == ["0001-01.png", "0002-01.png", "0003-01.png"]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_another_number_of_processes_continues(tmp_path, ranks):
    write(tmp_path / "whole")
    write_share(tmp_path / "out", (0, 2), stop=1)
    with (tmp_path / "out" / "index-0.jsonl").open("a") as index:
        index.write('{"text": "大')
    remaining = [write_share(tmp_path / "out", (rank, ranks), resume=True) for rank in range(ranks)]
    assert sorted(number for numbers in remaining for number in numbers) == [1, 2]
    assert images_of(tmp_path / "out") == images_of(tmp_path / "whole")
    assert all(not write_share(tmp_path / "out", (rank, ranks), resume=True) for rank in range(ranks))


def test_overwriting_what_several_processes_wrote(tmp_path):
    for rank in (0, 1):
        write_share(tmp_path / "out", (rank, 2), resume=True)
    write(tmp_path / "out", TEXTS[:1], overwrite=True)
    assert sorted(os.listdir(tmp_path / "out")) == ["0001-01.png", "0001-02.png", INDEX]


def test_several_processes_need_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"x\.png: several processes can only write to a folder"):
        open_writer(tmp_path / "x.png", TEXTS, 2, share=(0, 2))


def test_an_index_of_another_program(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out" / INDEX).write_text('{"text": "红苹果"}\n')
    with pytest.raises(UserError, match="a line has no files"):
        open_writer(tmp_path / "out", TEXTS, 2, resume=True).start(REQUEST, 8)
