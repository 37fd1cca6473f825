"""Groups of parameters whose gradient norm is reported."""

from vilg.distributed.layer_groups import layer_groups


def groups(blocks: int) -> list[str]:
    names = [f"blocks.{number}.mlp.weight" for number in range(blocks)]
    return list(dict.fromkeys(layer_groups(["embed.weight", *names, "head.weight", "head.bias"]).values()))


def test_a_group_is_a_part_of_the_model_or_a_quarter_of_its_blocks():
    assert groups(48) == ["embed", "blocks_0-11", "blocks_12-23", "blocks_24-35", "blocks_36-47", "head"]
    assert groups(10) == ["embed", "blocks_0-2", "blocks_3-5", "blocks_6-8", "blocks_9", "head"]
    assert groups(2) == ["embed", "blocks_0", "blocks_1", "head"]
    assert groups(0) == ["embed", "head"]


def test_other_modules_with_numbered_parts_are_one_group():
    assert layer_groups(["encoder.0.weight", "encoder.11.weight", "codebook"]) == {
        "encoder.0.weight": "encoder",
        "encoder.11.weight": "encoder",
        "codebook": "codebook",
    }
