"""What the installed package asks for and brings along."""

from importlib import metadata, resources

import pytest


@pytest.fixture(scope="module")
def requirements():
    try:
        return metadata.requires("vilg")
    except metadata.PackageNotFoundError:
        pytest.skip("vilg is not installed, only importable: pip install --editable .")


def test_no_paddle_is_asked_for_outside_the_extra_cpu(requirements):
    paddle = [line for line in requirements if line.startswith("paddlepaddle")]
    assert paddle and all('extra == "cpu"' in line for line in paddle)
    assert not any(line.startswith("paddlepaddle-gpu") for line in requirements)


def test_the_extras(requirements):
    assert {"cpu", "demo", "test", "paddlenlp"} <= set(metadata.metadata("vilg").get_all("Provides-Extra"))


def test_the_table_of_annotations_and_its_licence_come_along():
    folder = resources.files("vilg.data").joinpath("annotations")
    assert folder.joinpath("zh.tsv").read_text("utf-8").count("\n") > 1900
    assert "UNICODE LICENSE" in folder.joinpath("LICENSE").read_text("utf-8")
