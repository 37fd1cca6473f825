"""Fixtures and helpers of several test modules: small shards, small tokenizers, a small run."""

import io
import json
import pickle
import tarfile

import numpy as np
import paddle
import pytest
from PIL import Image

from tests.image.lpips_definition import random_weights
from vilg import config
from vilg.export.exporter import export
from vilg.export.program import Program
from vilg.generation import decoder
from vilg.image.vqvae import VQVAE
from vilg.text.vocabulary import train_vocabulary
from vilg.training.entry_points import pretrain

WORDS = ["红苹果", "绿苹果", "大象", "小狗", "红旗", "太阳", "月亮", "火车", "房子", "笑脸"]


def png(number: int, size: int = 20) -> bytes:
    """A different image for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, [size // 4, size // 4, 3], dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def pair(number: int, caption: str | None = None) -> dict[str, bytes]:
    caption = caption if caption is not None else WORDS[number % len(WORDS)]
    return {
        f"{number:05d}.png": png(number),
        f"{number:05d}.json": json.dumps({"caption": caption}, ensure_ascii=False).encode(),
    }


def write_shards(folder) -> None:
    """Write two shards, with 12 and 8 valid pairs."""
    for part, numbers in enumerate([range(12), range(12, 20)]):
        write_shard(folder / f"part-{part}.tar", {k: v for n in numbers for k, v in pair(n).items()})


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path)
    return [str(tmp_path / "part-*.tar")]


@pytest.fixture
def small(tmp_path, shards) -> config.Pretraining:
    return small_settings(tmp_path)


def small_settings(folder, *more: str) -> config.Pretraining:
    """Settings of a run of one second, whose tokenizers and shards exist on disk."""
    train_vocabulary(WORDS, 100, folder / "vocab.txt")
    paddle.seed(0)
    VQVAE(config.VQVAE(downsamplings=2, base_channels=32, residual_blocks=1, codebook_size=16, code_dim=8)).save(
        folder / "vq"
    )
    return config.resolve(config.Pretraining, None, [*small_overrides(folder), *more])


def small_overrides(folder) -> list[str]:
    return [
        f"run.dir={folder}/runs",
        f"data.shards=['{folder}/part-*.tar']",
        f"data.heldout=['{folder}/part-1.tar']",
        "data.image_size=16",
        "data.crop_jitter=0.2",
        f"text.vocab={folder}/vocab.txt",
        "text.length=8",
        f"image_tokenizer.path={folder}/vq",
        "input_noise.target_image=0.2",
        "input_noise.source_image=0.3",
        "input_noise.target_text=0.3",
        "model.layers=3",
        "model.hidden=32",
        "model.heads=2",
        "model.conv_kernel=3",
        "distributed.precision=fp32",  # equal on all processors
        "train.steps=6",
        "train.global_batch=8",
        "train.micro_batch=4",
        "train.lr=0.003",
        "train.warmup=2",
        "checkpoint.every_steps=3",
    ]


@pytest.fixture
def sources_read(monkeypatch) -> list[tuple[str, int]]:
    """A list of (direction, number of sources), one for each prefill of a model, in Python or exported."""
    seen, in_python, exported = [], decoder.prefill_source, Program.__call__

    def prefill_source(model, direction, source):
        seen.append((direction, len(source)))
        return in_python(model, direction, source)

    def call(program, *inputs):
        if program._path.name.endswith("_prefill"):
            seen.append((program._path.name.removesuffix("_prefill"), len(inputs[0])))
        return exported(program, *inputs)

    monkeypatch.setattr(decoder, "prefill_source", prefill_source)
    monkeypatch.setattr(Program, "__call__", call)
    return seen


@pytest.fixture(scope="session")
def lpips_file(tmp_path_factory):
    """Random LPIPS weights in the published format."""
    file = tmp_path_factory.mktemp("lpips") / "vgg16.ckpt"
    file.write_bytes(pickle.dumps(random_weights(), protocol=4))
    return file


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The folder of an export that generates 64 x 64 pixels with 256 codes, which takes long enough to observe
    progress.
    """
    folder = tmp_path_factory.mktemp("serving")
    write_shards(folder)
    settings = small_settings(folder, "data.image_size=64", "train.steps=30", "checkpoint.every_steps=30")
    pretrain(settings)
    export(settings.run.folder, folder / "export")
    return folder / "export"
