"""Token shards contain the same samples as the image shards, and training on them is identical to the last bit."""

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from tests.conftest import WORDS, pair, small_overrides, write_shard
from tests.processes import metrics
from vilg import config, image
from vilg.cli import main
from vilg.data import tokenizing
from vilg.data.loader import all_samples, collate, token_batches
from vilg.data.sampling_order import Sample
from vilg.data.shards import Shards
from vilg.data.token_manifest import MANIFEST, part_file, read_manifest
from vilg.data.token_part import TokenPart, Tokens, pack, write_part
from vilg.data.token_shards import TokenShards
from vilg.data.tokenizing import tokenize
from vilg.errors import SettingsError, UserError
from vilg.image.vqvae import VQVAE
from vilg.text.sequence import CaptionEncoder
from vilg.text.tokenizer import load_tokenizer
from vilg.training.entry_points import pretrain, train_image_tokenizer

EXACT = ("loss", "loss_t2i", "loss_i2t", "lr", "grad_norm", "consumed_samples")


def settings_of(folder, *more):
    """Settings of a small run on the shards of a folder, with token shards next to them."""
    return config.resolve(
        config.Pretraining,
        None,
        [
            *small_overrides(folder),
            "data.crop_jitter=0",
            f"data.tokens=['{folder}/tokens']",
            "tokenize.images_per_file=6",
            "tokenize.batch_size=4",
            *more,
        ],
    )


@pytest.fixture
def tokenized(small, tmp_path):
    """Token shards of 20 images. One image has three captions, and one caption is longer than any run reads."""
    captions = {"captions": ["红苹果", "苹果", "红红的大苹果"]}
    more = pair(90) | {"00090.json": json.dumps(captions, ensure_ascii=False).encode()} | pair(91, "红苹果" * 200)
    write_shard(tmp_path / "part-9.tar", more)
    settings = settings_of(tmp_path)
    assert tokenize(settings).images == 22
    return settings


def tokens_of(settings):
    return TokenShards(settings.data.tokens)


def test_tokens_equal_those_computed_by_a_run(tokenized):
    tokenizer = image.load(tokenized.image_tokenizer.path)
    tokens, samples = tokens_of(tokenized), list(all_samples(tokenized.data, tokenized.data.shards))
    assert len(tokens) == len(samples) == 22 and len(read_manifest(Path(tokenized.data.tokens[0])).parts) == 4
    for length in (8, 64, 256):
        fresh, kept = (CaptionEncoder(load_tokenizer(tokenized.text), length) for _ in range(2))
        for number, (sample, captions) in enumerate(samples):
            name, codes, words = tokens.read(number)
            assert sample.name.endswith(f"/{name}") and codes.dtype == np.uint16 and words[0].dtype == np.uint16
            one = paddle.to_tensor(collate([Sample("", sample.image, "")], None).images)
            assert np.array_equal(codes, tokenizer.encode(one).flatten(1).numpy())
            assert np.array_equal([fresh(caption) for caption in captions], [kept.build_inputs(ids) for ids in words])
        assert fresh.truncated == kept.truncated == (2 if length == 8 else 1)
    assert len(tokens.read(20)[2]) == 3 and len(tokens.read(21)[2][0]) == 254


@pytest.mark.parametrize(
    "more", [[], ["train.caption_dropout=0.3", "input_noise.target_image=0", "input_noise.target_text=0"]]
)
def test_a_run_on_token_shards_equals_the_run_on_images_to_the_last_bit(tokenized, more, tmp_path):
    pretrain(settings_of(tmp_path, "run.name=tokens", *more))
    pretrain(settings_of(tmp_path, "run.name=images", "data.tokens=[]", *more))
    one, two = (
        [[line[name] for name in EXACT] for line in metrics(tmp_path / "runs" / name)] for name in ("tokens", "images")
    )
    assert len(one) == 6 and one == two


def read(settings, samples, batch=2, ranks=1, consumed=0, seed=5):
    """The first `samples` samples of all ranks, (name, codes, text, seed), in the order of their positions."""
    encode = CaptionEncoder(load_tokenizer(settings.text), 10)
    rows = []
    for rank in range(ranks):
        batches = token_batches(tokens_of(settings), settings.data, seed, batch, rank, ranks, consumed, encode)
        mine = itertools.chain.from_iterable(
            zip(one.names, one.codes.tolist(), one.text.tolist(), one.seeds) for one in batches
        )
        rows.append(list(itertools.islice(mine, samples // ranks)))
    return [row for turn in zip(*rows) for row in turn]


def test_the_crop_at_a_position_depends_on_the_seed_and_the_position_alone(small, tmp_path):
    settings = settings_of(tmp_path, "data.crop_jitter=0.5", "tokenize.crops=3")
    tokenize(settings)
    reference = read(settings, 120)
    assert read(settings, 120, ranks=2) == read(settings, 120, ranks=3, batch=4) == reference
    assert read(replace(settings, data=replace(settings.data, threads=7)), 120, batch=8) == reference
    assert read(settings, 80, consumed=40, ranks=2) == reference[40:]
    assert read(settings, 120, seed=6) != reference
    tokens = tokens_of(settings)
    crops = {name: codes.tolist() for name, codes, _ in map(tokens.read, range(len(tokens)))}
    drawn = {(name, crops[name].index(codes)) for name, codes, _, _ in reference}
    assert len({number for _, number in drawn}) == 3 and len(drawn) > 40  # of 60; six epochs contain most of them


def test_random_crops_do_not_depend_on_file_and_batch_sizes(small, tmp_path):
    for name, part, batch in (("a", 6, 4), ("b", 20, 7)):
        tokenize(
            settings_of(
                tmp_path,
                "data.crop_jitter=0.5",
                "tokenize.crops=2",
                f"data.tokens=['{tmp_path}/{name}']",
                f"tokenize.images_per_file={part}",
                f"tokenize.batch_size={batch}",
            )
        )
    a, b = (TokenShards([str(tmp_path / name)]) for name in "ab")
    assert all(np.array_equal(a.read(number)[1], b.read(number)[1]) for number in range(20))
    assert any((codes[0] != codes[1]).any() for codes in (a.read(number)[1] for number in range(20)))


def test_several_folders_are_concatenated(tokenized, tmp_path):
    shutil.copytree(tmp_path / "tokens", tmp_path / "tokens-2")
    both = TokenShards([str(tmp_path / "tokens*")])
    assert len(both) == 44 and both.read(25)[0] == both.read(3)[0]


def test_broken_images_and_captions_are_skipped_and_named(small, tmp_path, caplog, capsys):
    write_shard(
        tmp_path / "part-3.tar",
        {k: v for n in range(30, 42) for k, v in pair(n).items()}
        | {f"{n:05d}.png": b"broken" for n in range(33, 40)}
        | {"00030.json": b"{"},
    )
    tokenized = tokenize(settings_of(tmp_path))
    skipped = [name for part in tokenized.manifest.parts for name in part.skipped]
    assert skipped == [f"part-3.tar:{n:05d}" for n in (30, *range(33, 40))] and tokenized.images == 24
    assert 0 in [part.images for part in tokenized.manifest.parts]  # one file has no sample left
    assert len([record for record in caplog.records if "skipped" in record.message]) == 8
    assert main(["data", "inspect", str(tmp_path / "tokens")]) == 0
    assert "8 broken and skipped: part-3.tar:00030, part-3.tar:00033" in capsys.readouterr().out
    pretrain(settings_of(tmp_path, "train.stop_at=2"))
    with pytest.raises(UserError, match="8 broken samples, more than max_bad_samples=7"):
        tokenize(settings_of(tmp_path, "data.max_bad_samples=7", f"data.tokens=['{tmp_path}/again']"))
    assert not (tmp_path / "again" / MANIFEST).exists()


def test_large_vocabularies_do_not_overflow(tmp_path):
    one = Tokens("a", np.array([[65535, 65536, 70000]]), [[69999, 3]])
    arrays = pack([one], (1, 3), 70001, 70000)
    assert arrays["codes"].dtype == arrays["words"].dtype == np.uint32
    write_part(tmp_path / part_file(0), arrays, {})
    part = TokenPart(tmp_path / part_file(0))
    assert part.codes(0, 0).tolist() == [65535, 65536, 70000] and part.token_ids(0).tolist() == [69999, 3]
    small = pack([Tokens("a", np.array([[65535]]), [[65535]])], (1, 1), 65536, 65536)
    assert small["codes"].dtype == small["words"].dtype == np.uint16 and small["codes"].max() == 65535
    with pytest.raises(ValueError, match="of a vocabulary of 70000"):
        pack([one], (1, 3), 70000, 70000)


@pytest.mark.parametrize("tokens, gigabytes", [(25, 309), (61, 320)])
def test_145_million_pairs_take_as_much_as_documented(tmp_path, tokens, gigabytes):
    """1,024 codes, a caption of usual or of the maximum length for T = 64, and a name as img2dataset chooses it."""
    names = [f"{number:05d}.tar:{number:09d}" for number in range(512)]
    images = [Tokens(name, np.zeros([1, 1024], int), [[7] * tokens]) for name in names]
    write_part(tmp_path / "x", pack(images, (1, 1024), 8192, 21128), {})
    assert gigabytes * 0.98 < (tmp_path / "x").stat().st_size / 512 * 145e6 / 1e9 < gigabytes


def test_a_second_call_does_nothing_and_other_settings_are_refused(tokenized, monkeypatch, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()}
    assert tokenize(tokenized).images == 0
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()} == before
    for more, name in (
        (["run.seed=2"], "seed"),
        (["data.image_size=20"], "image_tokenizer"),
        (["tokenize.images_per_file=5"], "part"),
        ([f"data.shards=['{tmp_path}/part-0.tar']"], "source"),
    ):
        with pytest.raises(UserError, match=f"made with another {name} than these settings name"):
            tokenize(settings_of(tmp_path, *more))
    shutil.copytree(tmp_path / "vq", tmp_path / "moved")  # the same tokenizer in another folder
    assert tokenize(settings_of(tmp_path, f"image_tokenizer.path={tmp_path}/moved")).images == 0


def other_tokenizer(folder):
    paddle.seed(99)
    VQVAE(config.VQVAE(downsamplings=2, base_channels=32, residual_blocks=1, codebook_size=16, code_dim=8)).save(
        folder / "other"
    )
    return [f"image_tokenizer.path={folder}/other"]


def other_vocabulary(folder):
    entries = (folder / "vocab.txt").read_text("utf-8").splitlines()
    (folder / "other.txt").write_text("\n".join([*entries[:5], *reversed(entries[5:])]), "utf-8")
    return [f"text.vocab={folder}/other.txt"]


@pytest.mark.parametrize(
    "more, message",
    [
        (other_tokenizer, "made with another image tokenizer"),
        (other_vocabulary, "made with another text tokenizer"),
        (lambda folder: ["data.image_size=32"], "data.image_size=16, these settings say 32"),
        (lambda folder: ["data.crop_jitter=0.2"], "data.crop_jitter=0.0, these settings say 0.2"),
    ],
)
def test_a_run_refuses_token_shards_of_other_tokenizers(tokenized, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        pretrain(settings_of(tmp_path, *more(tmp_path)))
    assert not tokenized.run.folder.exists()


def test_a_resumed_run_refuses_other_token_shards(tokenized, tmp_path):
    pretrain(settings_of(tmp_path, "train.stop_at=3"))
    tokenize(settings_of(tmp_path, f"data.tokens=['{tmp_path}/fewer']", f"data.shards=['{tmp_path}/part-0.tar']"))
    with pytest.raises(UserError, match="trained on other data"):
        pretrain(settings_of(tmp_path, "resume=auto", f"data.tokens=['{tmp_path}/fewer']"))
    with pytest.raises(UserError, match="trained on other data"):
        pretrain(settings_of(tmp_path, "resume=auto", "data.tokens=[]"))
    os.rename(tmp_path / "tokens", tmp_path / "moved")
    pretrain(settings_of(tmp_path, "resume=auto", f"data.tokens=['{tmp_path}/moved']"))


def test_incomplete_and_changed_folders_are_refused_on_opening(tokenized, tmp_path):
    folder = tmp_path / "tokens"
    file = folder / part_file(1)
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(UserError, match=f"{part_file(1)}: {len(data) - 1} bytes, {len(data)} were written"):
        tokens_of(tokenized)
    file.unlink()
    with pytest.raises(UserError, match=f"{part_file(1)}: no such file"):
        tokens_of(tokenized)
    file.write_bytes(data)
    manifest = (folder / MANIFEST).read_text("utf-8")
    (folder / MANIFEST).write_text(manifest.replace('"crop_jitter": 0.0', '"crop_jitter": 0.3'), "utf-8")
    with pytest.raises(UserError, match="damaged, its contents do not match its hash"):
        tokens_of(tokenized)
    (folder / MANIFEST).write_text(manifest[:-20], "utf-8")
    with pytest.raises(UserError, match="damaged, not valid JSON"):
        tokens_of(tokenized)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="has not finished"):
        pretrain(tokenized)
    with pytest.raises(UserError, match="no such folder of token shards"):
        TokenShards(["none"])


def test_a_renamed_file_is_refused_on_reading(tokenized, tmp_path):
    files = [tmp_path / "tokens" / part_file(number) for number in (0, 1)]
    one, two = (file.read_bytes() for file in files)
    if len(one) != len(two):
        pytest.skip("of different sizes, which is noticed before")
    files[0].write_bytes(two)
    with pytest.raises(UserError, match="not the file in the manifest"):
        tokens_of(tokenized).read(0)


def test_inspect_describes_the_tokens_and_decodes_images(tokenized, tmp_path, capsys):
    assert main(["data", "inspect", str(tmp_path / "tokens"), "--picture", str(tmp_path / "x.png")]) == 0
    out = capsys.readouterr().out
    assert (
        "22 images x 1 crops x 4 x 4 codes, 24 captions; 4 files" in out
        and "all files have the hashes in the manifest" in out
    )
    assert "part-0.tar:00000  红苹果" in out and "vqvae, 16 codes" in out
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    tokenizer = image.load(tokenized.image_tokenizer.path)
    codes = paddle.to_tensor(tokens_of(tokenized).read(0)[1].astype("int64").reshape(1, 4, 4))
    first = (tokenizer.decode(codes)[0].numpy().transpose(1, 2, 0) * 255).round()
    assert sheet.shape == (56, 76, 3) and np.abs(sheet[:16, :16] - first).max() <= 1

    shutil.move(tmp_path / "vq", tmp_path / "moved")
    shutil.move(tmp_path / "vocab.txt", tmp_path / "moved.txt")
    assert main(["data", "inspect", str(tmp_path / "tokens"), "--picture", str(tmp_path / "y.png")]) == 1
    said = capsys.readouterr()
    assert "captions cannot be read" in said.out and "vilg: " in said.err and "config.json" in said.err
    assert (
        main(
            [
                "data",
                "inspect",
                str(tmp_path / "tokens"),
                "--picture",
                str(tmp_path / "y.png"),
                "--vocab",
                str(tmp_path / "moved.txt"),
                "--image-tokenizer",
                str(tmp_path / "moved"),
            ]
        )
        == 0
    )
    assert "红苹果" in capsys.readouterr().out and (tmp_path / "y.png").exists()
    other_tokenizer(tmp_path)
    assert (
        main(
            [
                "data",
                "inspect",
                str(tmp_path / "tokens"),
                "--picture",
                str(tmp_path / "z.png"),
                "--image-tokenizer",
                str(tmp_path / "other"),
            ]
        )
        == 1
    )
    assert "not the tokenizer that the token shards" in capsys.readouterr().err and not (tmp_path / "z.png").exists()


def test_inspect_finds_any_flipped_bit(tokenized, tmp_path, capsys):
    file = tmp_path / "tokens" / part_file(2)
    data = file.read_bytes()
    header = int.from_bytes(data[:8], "little") + 8
    places = [0, 9, data.rindex(b"sha256", 0, header) + 20, *np.linspace(header, len(data) - 1, 12).astype(int)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        assert main(["data", "inspect", str(tmp_path / "tokens")]) == 1, place
        out = capsys.readouterr().out
        assert f"{part_file(2)}: " in out and "damaged" in out and "every file" not in out
    file.unlink()
    assert main(["data", "inspect", str(tmp_path / "tokens")]) == 1
    assert f"{part_file(2)}: no such file" in capsys.readouterr().out


def test_inspect_of_a_tar(shards, tmp_path, capsys):
    write_shard(tmp_path / "a.tar", {"00000.png": b"broken", "00000.txt": b"a"} | pair(1) | pair(2, "大象"))
    assert main(["data", "inspect", str(tmp_path / "a.tar"), "--picture", str(tmp_path / "x.png")]) == 0
    out = capsys.readouterr().out
    assert "3 samples, 3 with image and caption" in out and "a.tar:00002  20 x 20  大象" in out
    assert Image.open(tmp_path / "x.png").size == (2 * 128 + 4, 128)
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(data[:-6000])
    assert main(["data", "inspect", str(tmp_path / "b.tar")]) == 1
    assert "truncated" in capsys.readouterr().out
    assert main(["data", "inspect", str(tmp_path / "none.tar")]) == 1
    assert main(["data", "inspect", str(tmp_path / "vocab.txt")]) == 1
    assert capsys.readouterr().err.count("vilg: ") == 2


@pytest.mark.parametrize(
    "more, message",
    [
        (["data.tokens=[]"], r"data.tokens=\[\]: has to name exactly one folder"),
        (["data.tokens=[a,b]"], "has to name exactly one folder"),
        (["tokenize.crops=2"], "tokenize.crops=2: all crops of an image are equal without data.crop_jitter"),
        (["tokenize.images_per_file=0"], "tokenize.images_per_file=0: must be"),
        (["data.image_size=18"], "data.image_size=18"),
        (["image_tokenizer.path=none"], "none/config.json: no such file"),
    ],
)
def test_bad_settings_are_one_line(small, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        tokenize(settings_of(tmp_path, *more))
    assert not (tmp_path / "tokens").exists()


def test_an_image_tokenizer_cannot_train_on_token_shards(small, tmp_path):
    with pytest.raises(SettingsError, match="data.tokens: an image tokenizer learns from the images"):
        train_image_tokenizer(config.resolve(config.ImageTokenizerTraining, None, ["data.tokens=[x]"]))


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_full_disk_is_a_one_line_error_and_loses_nothing(small, tmp_path, monkeypatch, fault):
    settings = settings_of(tmp_path)
    if fault == "read-only":
        (tmp_path / "tokens").write_text("a file where the folder should be")
        with pytest.raises(OSError):
            tokenize(settings)
        assert (
            main(
                [
                    "data",
                    "tokenize",
                    *small_overrides(tmp_path),
                    "data.crop_jitter=0",
                    f"data.tokens=['{tmp_path}/tokens']",
                ]
            )
            == 1
        )
        return
    write, written = tokenizing.write_part, []

    def until_full(file, arrays, about):
        if len(written) == 2:
            monkeypatch.setattr(os, "fsync", no_space)
        write(file, arrays, about)
        written.append(file.name)

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tokenizing, "write_part", until_full)
        with pytest.raises(UserError, match=f"{part_file(2)}: no space left on device"):
            tokenize(settings)
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == written == [part_file(0), part_file(1)]
    monkeypatch.undo()
    assert tokenize(settings).images == 20 - 12
    assert len(Shards(sorted(tmp_path.glob("part-*.tar")), None)) == len(tokens_of(settings)) == 20


def test_inspect_prints_the_captions(tokenized):
    tokenizer, tokens = load_tokenizer(tokenized.text), tokens_of(tokenized)
    assert [tokenizer.decode(tokens.read(n)[2][0].tolist()) for n in range(10)] == WORDS
