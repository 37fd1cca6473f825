"""The requirements and the content of the installed package."""

import shutil
import sys
import zipfile
from importlib import metadata, resources

import pytest

from tests.processes import ROOT, run


@pytest.fixture(scope="module")
def requirements():
    try:
        return metadata.requires("vilg")
    except metadata.PackageNotFoundError:
        pytest.skip("vilg is not installed, only importable: pip install --editable .")


def test_only_the_extra_cpu_requires_paddle(requirements):
    paddle = [line for line in requirements if line.startswith("paddlepaddle")]
    assert paddle and all('extra == "cpu"' in line for line in paddle)
    assert not any(line.startswith("paddlepaddle-gpu") for line in requirements)


def test_the_extras(requirements):
    assert {"cpu", "demo", "test", "paddlenlp", "serve"} <= set(metadata.metadata("vilg").get_all("Provides-Extra"))


def test_the_wheel_contains_the_annotations_and_their_licence():
    folder = resources.files("vilg.data").joinpath("annotations")
    assert folder.joinpath("zh.tsv").read_text("utf-8").count("\n") > 1900
    assert "UNICODE LICENSE" in folder.joinpath("LICENSE").read_text("utf-8")


def wheel(folder):
    """The file names in a wheel that is built from the sources, without network."""
    for part in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, folder)
    shutil.copytree(ROOT / "vilg", folder / "vilg", ignore=shutil.ignore_patterns("__pycache__", "lib"))
    done = run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "out", "."],
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next((folder / "out").glob("vilg-*.whl"))).namelist()


@pytest.mark.fleet
def test_a_wheel_contains_the_operator_and_its_sources(tmp_path):
    names = wheel(tmp_path)
    for part in ("lib/libvilg_attention.so", "lib/key", "csrc/attention.h", "csrc/cpu/vector.h"):
        assert f"vilg/attention/{part}" in names


@pytest.mark.fleet
def test_a_wheel_is_built_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    names = wheel(tmp_path)
    assert "vilg/attention/build.py" in names and not any("/lib/" in name for name in names)
