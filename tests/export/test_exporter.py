"""Exported programs equal the model that they were traced from, and an export that differs is not written."""

import json
from functools import partial
from math import prod

import numpy as np
import paddle
import pytest

from vilg import checkpoint, config
from vilg.attention import operator
from vilg.attention.patterns import DIRECTIONS, TEXT_TO_IMAGE
from vilg.checkpoint import CheckpointInfo, slices
from vilg.checkpoint.publish import ShardResult, publish, rank_file
from vilg.checkpoint.storage import LocalStorage
from vilg.cli import main
from vilg.errors import UserError
from vilg.export import exporter
from vilg.export.exporter import LOGITS_IN_16_BITS, export, model_sizes
from vilg.export.manifest import WEIGHTS, prefill, step
from vilg.export.predictor import Predictor, ProgramDecodingModel
from vilg.export.program import Program
from vilg.export.programs import save_direction_programs
from vilg.export.weights import weights_of
from vilg.generation.decoder import TransformerDecodingModel
from vilg.model.transformer import Transformer
from vilg.text.tokenizer import WordPiece

WORDS, CODES = 19, 13


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "text_length, grid, kernel, heads, layers, extra",
    [
        (7, (4, 4), 3, 1, 6, {}),
        (32, (6, 6), 5, 1, 3, {"qk_norm": True}),
        (64, (3, 5), 3, 2, 2, {"sandwich_norm": True}),
        (9, (5, 2), 11, 2, 1, {}),
    ],
)
def test_every_logit_equals_that_of_the_model(tmp_path, direction, text_length, grid, kernel, heads, layers, extra):
    paddle.seed(3)
    settings = config.Model(layers=layers, hidden=32, heads=heads, conv_kernel=kernel, **extra)
    model = Transformer(settings, WORDS, CODES, text_length, grid)
    for parameter in model.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    model.eval()
    sizes, rng, image = model_sizes(model, 16), np.random.default_rng(0), grid[0] * grid[1]
    used = save_direction_programs(model, direction, sizes, tmp_path)
    assert list(used) == [prefill(direction), step(direction)]
    exported = ProgramDecodingModel(
        sizes,
        {name: Program(tmp_path / name, weights=partial(weights_of, model, names)) for name, names in used.items()},
    )
    drawing = direction == TEXT_TO_IMAGE
    source = rng.integers(0, *((WORDS, [2, text_length]) if drawing else (CODES, [2, image])))
    target = rng.integers(0, *((CODES, [6, image]) if drawing else (WORDS, [6, text_length])))
    ours, programs = (
        decoding.prefill(direction, source, 3) for decoding in (TransformerDecodingModel(model), exported)
    )
    pairs = [(ours.first(), programs.first())] if drawing else []
    for place in range(target.shape[1]):
        if place == 3:  # as beam search does
            for state in (ours, programs):
                state.reorder(np.array([1, 1, 0, 3, 5, 5]))
        pairs.append([state.step(target[:, place]) for state in (ours, programs)])
    for expected, found in pairs:
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    with pytest.raises(IndexError):
        programs.step(target[:, 0])


def test_the_content_of_the_manifest(exported, run):
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["format"] == 2 and manifest["versions"]["paddle"] == paddle.__version__
    assert manifest["checkpoint"].endswith("step-00000006")
    assert manifest["sizes"]["grid"] == [4, 4] and manifest["sizes"]["text_length"] == 8
    assert set(manifest["files"]) == {path.name for path in exported.iterdir()} - {"manifest.json"}
    assert manifest["self_test"]["logits"] < 1e-4 and manifest["self_test"]["codes"] == 0


def test_an_older_checkpoint_of_the_run(run, tmp_path):
    made = export(run / "checkpoints" / "step-00000003", tmp_path / "deep" / "three")
    assert made.checkpoint.endswith("step-00000003")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["three"]


def as_of_four_ranks(run, folder):
    """The checkpoint of a run as 2 x 2 ranks write it: every tensor has two halves, and each half is written by one of
    the two ranks that hold it.
    """
    reader, storage = checkpoint.CheckpointReader(run / "checkpoints" / "step-00000006"), LocalStorage(folder)
    unfinished, parts = storage.begin("step-00000006"), [[] for _ in range(4)]
    for number, (name, tensor) in enumerate(reader.manifest.tensors.items()):
        size = prod(tensor.shape)
        for shard, (start, stop) in enumerate([(0, (size + 1) // 2), ((size + 1) // 2, size)]):
            parts[shard + 2 * (number % 2)].append((name, tensor.shape, tensor.dtype, start, stop))
    written = []
    for rank, held in enumerate(parts):
        contents = [
            slices.TensorChunk(name, dtype, [stop - start], partial(reader.range, name, start, stop))
            for name, _, dtype, start, stop in held
        ]
        written.append(ShardResult(slices.write(storage, f"{unfinished}/{rank_file(rank)}", contents), held))
    of = reader.manifest
    publish(
        storage,
        unfinished,
        CheckpointInfo(of.step, of.consumed_samples, of.settings, of.tokenizers, of.data, of.loss_scale),
        {"ranks": 4, "shards": 2},
        written,
    )
    return folder / "step-00000006"


def test_a_checkpoint_of_other_ranks_is_the_same_model(run, tmp_path, monkeypatch):
    cut, seen = as_of_four_ranks(run, tmp_path), []
    monkeypatch.setattr(exporter, "save_programs", lambda model, *_: seen.append(model) or stop("seen"))
    for found in (run, cut):
        with pytest.raises(UserError, match="seen"):
            export(found, tmp_path / "out")
    one, four = (model.state_dict() for model in seen)
    assert len(list(cut.glob("rank-*"))) == 4 and one.keys() == four.keys()
    assert all(np.array_equal(one[name].numpy(), four[name].numpy()) for name in one)


def stop(message):
    raise UserError(message)


def test_a_checkpoint_at_a_url(run, tmp_path, capsys, monkeypatch):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'vilg[storage]'")
    url, out = f"memory://{tmp_path.name}/step-00000006", tmp_path / "x.png"
    fsspec.filesystem("memory").put(f"{run}/checkpoints/step-00000006/", f"{url}/", recursive=True)
    assert main(["generate", "--checkpoint", url, "--text", "红", "--greedy", "--out", str(out)]) == 0
    assert json.loads(out.with_name("x.png.json").read_text("utf-8"))["checkpoint"] == url
    monkeypatch.setattr(exporter, "save_programs", lambda *_: stop("the checkpoint has been read"))
    assert main(["export", "--checkpoint", url, "--out", str(tmp_path / "out")]) == 1
    assert "vilg: the checkpoint has been read" in capsys.readouterr().err
    assert main(["generate", "--checkpoint", f"{url}9", "--text", "红", "--out", str(out), "--overwrite"]) == 1
    assert f"vilg: {url}9: not a checkpoint" in capsys.readouterr().err


def test_an_existing_folder_is_not_overwritten(run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is there already"):
        export(run, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_vocabulary_with_a_duplicate_line(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na\nb\na\nc\n", "utf-8")
    own = WordPiece(tmp_path / "vocab.txt")
    exporter._write_vocabulary(own, tmp_path / "out.txt")
    written = WordPiece(tmp_path / "out.txt")
    assert written.entries() == own.entries() and written.encode("a b c") == own.encode("a b c") == [5, 4, 6]


@pytest.mark.parametrize(
    "part, by, what",
    [
        ("text_head.bias", 0.3, "logits"),
        ("decoder", 0.3, "pixels"),
        ("encoder", 0.3, "codes"),
        ("text_head.bias", np.nan, "logits"),
    ],
)
def test_an_export_that_fails_its_self_test_is_not_written(run, tmp_path, monkeypatch, part, by, what):
    """While the programs are written, one tensor is slightly different or NaN."""

    def wrong(model, tokenizer, sizes, folder):
        layer = tokenizer if part in ("encoder", "decoder") else model
        tensor = next(value for name, value in layer.state_dict().items() if name.startswith(part))
        kept = tensor.numpy()
        tensor.set_value(kept + np.float32(by))
        used = save_programs(model, tokenizer, sizes, folder)
        tensor.set_value(kept)
        return used

    save_programs = exporter.save_programs
    monkeypatch.setattr(exporter, "save_programs", wrong)
    with pytest.raises(UserError, match=f"differs from .* in {what}"):
        export(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_program_that_was_not_written(run, tmp_path, monkeypatch):
    def cut(model, tokenizer, sizes, folder):
        used = save_programs(model, tokenizer, sizes, folder)
        file = folder / "image_encode.pdiparams"
        file.write_bytes(file.read_bytes()[:100])
        return used

    save_programs = exporter.save_programs
    monkeypatch.setattr(exporter, "save_programs", cut)
    with pytest.raises(UserError, match="out: is the disk full.*image_encode: Paddle .* cannot load it"):
        export(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("portable", [False, True], ids=["operator", "portable"])
def test_an_export_in_16_bits(run, exported, tmp_path, precision, portable):
    """Half the weights, and nearly the same distributions. Its self-test compares it with a model in 16 bits."""
    if operator.why_no_half_kernels():
        pytest.skip(operator.why_no_half_kernels())
    made = export(run, tmp_path / "half", portable, precision=precision)
    assert made.precision == precision and made.self_test["logits"] < LOGITS_IN_16_BITS[precision]
    half, whole = Predictor(tmp_path / "half"), Predictor(exported)
    assert made.files[WEIGHTS].size == pytest.approx(whole.manifest.files[WEIGHTS].size / 2, rel=0.05)
    text = np.zeros([1, made.sizes.text_length], np.int64)
    states = [predictor.decoding_model.prefill(TEXT_TO_IMAGE, text, samples=2) for predictor in (half, whole)]
    for code in range(4):
        one, two = (state.first() if code == 0 else state.step(np.array([code, code + 1])) for state in states)
        assert one.dtype == np.float32 and np.abs(one - two).max() < 0.05 * np.abs(two).max()
    assert half.clone().decoding_model.dtype == half.decoding_model.dtype


def test_an_export_in_16_bits_needs_kernels(run, tmp_path, monkeypatch):
    monkeypatch.setattr(operator, "load", lambda: "there is no C++ compiler")
    with pytest.raises(UserError, match="--precision bf16: the kernels for a CPU are missing: there is no C"):
        export(run, tmp_path / "out", portable=True, precision="bf16")
    assert not (tmp_path / "out").exists()
