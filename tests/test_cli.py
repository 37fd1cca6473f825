"""The command line in one process: help with examples, one-line errors, exit codes, generating and captioning."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.conftest import WORDS, png, small_settings
from vilg.cli import main
from vilg.data.decode import read_image
from vilg.distributed.world import World
from vilg.generation.from_checkpoint import load_checkpoint_pipeline
from vilg.generation.output import GenerationRequest, generate
from vilg.generation.sampling import Sampler
from vilg.generation.writers import open_writer
from vilg.training.entry_points import pretrain

COMMANDS = [
    ["data", "openmoji"],
    ["data", "tokenize"],
    ["data", "inspect"],
    ["vocab"],
    ["train-image-tokenizer"],
    ["import-image-tokenizer"],
    ["pretrain"],
    ["launch"],
    ["fleetrun"],
    ["generate"],
    ["caption"],
    ["export"],
    ["serve"],
    ["bench", "attention"],
    ["bench", "train"],
    ["bench", "serve"],
    ["bench", "tokenize"],
]


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of `vilg arguments`."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    return code, *capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(capsys, command):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0 and f"example:\n  vilg {' '.join(command)}" in out


def test_the_overview_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(command[0] in out for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["pretrain", "train.stepz=3"], 2, "vilg: train.stepz=3: unknown key train.stepz; did you mean train.steps?"),
        (["pretrain", "-c", "none.yaml"], 2, "vilg: none.yaml: no such file"),
        (["pretrain", "model.heads=7"], 2, "vilg: model.heads=7: must divide model.hidden=4096"),
        (["pretrain", "text.vocab=none.txt", "image_tokenizer.path=none"], 1, "vilg: none/config.json: no such file"),
        (["train-image-tokenizer", "data.shards=[none.tar]"], 1, "vilg: none.tar: no such shard"),
        (["data", "tokenize", "data.tokens=[a,b]"], 2, "vilg: data.tokens=['a', 'b']: has to name exactly one folder"),
        (["data", "inspect", "none.tar"], 1, "vilg: none.tar: no such file or directory"),
        (["vocab", "--shards", "none.tar", "--size", "99", "--out", "v.txt"], 1, "vilg: none.tar: no such shard"),
        (["generate", "--checkpoint", "none", "--text", "a", "--out", "x.png"], 1, "vilg: none: not a checkpoint"),
        (["caption", "--checkpoint", "none", "--image", "x.png"], 1, "vilg: none: not a checkpoint"),
    ],
)
def test_bad_input_is_one_line(capsys, monkeypatch, tmp_path, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    got, _, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("vilg:")]
    assert got == code and len(lines) == 1 and lines[0].startswith(message), err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError("(External) CUDA error(719), unspecified launch failure."), None),
        (OSError(116, "Stale file handle"), None),
        (OSError(5, "Input/output error", "x.tar"), None),
        (OSError(28, "No space left on device"), None),
        (OSError(28, "No space left on device", "x.tar"), "vilg: x.tar: no space left on device; free some space, "),
        (PermissionError(13, "Permission denied", "x.tar"), "vilg: x.tar: permission denied; check its permissions"),
    ],
)
def test_only_what_a_user_can_correct_is_one_line(capsys, monkeypatch, tmp_path, error, message):
    """Everything else keeps its traceback, so that a launcher does not take it for bad input and restarts."""

    def fail(_):
        raise error

    monkeypatch.setattr("vilg.data.openmoji.build", fail)
    if message is None:
        with pytest.raises(OSError) as raised:
            main(["data", "openmoji", "--out", str(tmp_path)])
        assert raised.value is error
    else:
        code, _, err = run(capsys, "data", "openmoji", "--out", tmp_path)
        assert code == 1 and err.startswith(message) and len(err.splitlines()) == 1


@pytest.fixture
def trained(small):
    pretrain(small)
    return small.run.folder


def test_generate_is_deterministic_for_a_seed(capsys, trained, tmp_path):
    arguments = ["generate", "--checkpoint", trained, "--text", "红苹果", "-n", 3, "--top-k", 8]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(capsys, *arguments, "--seed", seed, "--out", tmp_path / f"{name}.png")[0] == 0
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert a.shape == (36, 36, 3)  # two columns of 16 pixels with a gap of 4
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_generate_from_one_checkpoint_directory_and_greedily(capsys, trained, tmp_path):
    step = trained / "checkpoints" / "step-00000003"
    code, out, _ = run(
        capsys, "generate", "--checkpoint", step, "--text", "红苹果", "--greedy", "--out", tmp_path / "deep" / "x.png"
    )
    assert code == 0 and out.startswith(f"{tmp_path / 'deep' / 'x.png'}: 红苹果: log p(text | image) -")
    assert Image.open(tmp_path / "deep" / "x.png").size == (16, 16)


def test_generate_writes_metadata_into_the_png_and_a_json_file(capsys, trained, tmp_path):
    arguments = [
        "generate",
        "--checkpoint",
        trained,
        "--text",
        "红苹果",
        "--seed",
        3,
        "--temperature",
        1.5,
        "--top-k",
        11,
        "--top-p",
        0.9,
        "--guidance",
        2,
    ]
    code, _, err = run(capsys, *arguments, "-n", 5, "--out", tmp_path / "all.png")
    assert code == 0 and "generating: 16/16 " in err and "scoring: 5/5 " in err
    assert run(capsys, *arguments, "-n", 2, "--best-of", 5, "--out", tmp_path / "best.png")[0] == 0
    everything, best = (json.loads((tmp_path / f"{name}.png.json").read_text("utf-8")) for name in ("all", "best"))
    assert json.loads(Image.open(tmp_path / "best.png").text["vilg"]) == best
    assert best["scores"] == sorted(everything["scores"], reverse=True)[:2] and best["candidates"] == 5
    assert [everything["scores"][seed - 3] for seed in best["seeds"]] == best["scores"]
    assert best["text"] == "红苹果" and best["sampler"]["seed"] == 3 and best["guidance"] == 2
    assert best["sampler"] == {"seed": 3, "temperature": 1.5, "top_k": 11, "greedy": False, "top_p": 0.9}
    assert best["model"].endswith("step-00000006") and best["checkpoint"] == best["model"]


def test_generate_completes_an_image(capsys, trained, tmp_path):
    """The upper rows are the decoded codes of the image; the others are generated."""
    (tmp_path / "given.png").write_bytes(png(4, 40))
    pipeline, greedy = load_checkpoint_pipeline(trained), Sampler(greedy=True)
    given = pipeline.encode_images([read_image(tmp_path / "given.png")])[0].reshape([4, 4])
    for rows in (1, 3):
        code, _, err = run(
            capsys,
            "generate",
            "--checkpoint",
            trained,
            "--text",
            "红苹果",
            "--greedy",
            "--image",
            tmp_path / "given.png",
            "--keep-rows",
            rows,
            "--out",
            tmp_path / f"{rows}.png",
        )
        assert code == 0, err
        ((_, generated),) = generate(
            pipeline,
            GenerationRequest(["红苹果"], image=tmp_path / "given.png", keep_rows=rows, sampler=greedy),
            open_writer(tmp_path / "again.png", ["红苹果"], 1, overwrite=True),
            World(),
        )
        codes = generated.codes[0, 0]
        assert np.array_equal(codes[:rows], given[:rows]) and not np.array_equal(codes[rows:], given[rows:])
        assert np.array_equal(*(np.asarray(Image.open(tmp_path / f"{name}.png")) for name in (rows, "again")))
    one, three = (np.asarray(Image.open(tmp_path / f"{rows}.png")).astype(int) for rows in (1, 3))
    assert not np.array_equal(one, three)


def test_generate_writes_a_captioned_sheet_for_several_texts(capsys, caplog, trained, tmp_path):
    (tmp_path / "texts.txt").write_text(
        "红苹果\n\n大象\n一个很长很长很长的句子\n", "utf-8-sig"
    )  # with a byte-order mark and line ends of Windows
    code, out, _ = run(
        capsys,
        "generate",
        "--checkpoint",
        trained,
        "--texts",
        tmp_path / "texts.txt",
        "-n",
        6,
        "--truncate",
        "--out",
        tmp_path / "x.png",
    )
    assert code == 0 and len(out.splitlines()) == 3
    long = [record.args[0] for record in caplog.records if "too long" in str(record.args)]
    assert long == [
        "一个很长很长很长的句子: the text is too long: 11 tokens, the model reads 5 tokens; the rest is ignored"
    ]
    assert [one["text"] for one in json.loads((tmp_path / "x.png.json").read_text("utf-8"))] == [
        "红苹果",
        "大象",
        "一个很长很长很长的句子",
    ]
    sheet = Image.open(tmp_path / "x.png")
    assert sheet.width == 6 * 16 + 5 * 4 and json.loads(sheet.text["vilg"])[1]["text"] == "大象"


def test_generate_into_a_folder_with_metadata_that_reproduces_each_image(capsys, trained, tmp_path):
    arguments = ["generate", "--checkpoint", trained, "--top-p", 0.9]
    assert (
        run(capsys, *arguments, "--text", "红苹果", "大象", "-n", 2, "--seed", 7, "--out", tmp_path / "drawn")[0] == 0
    )
    index = [json.loads(line) for line in (tmp_path / "drawn" / "index.jsonl").read_text("utf-8").splitlines()]
    assert [one["files"] for one in index] == [["0001-01.png", "0001-02.png"], ["0002-01.png", "0002-02.png"]]
    code, _, err = run(capsys, *arguments, "--text", "红苹果", "--out", tmp_path / "drawn")
    assert code == 1 and "already contains images of 2 texts; --resume continues" in err
    picture = Image.open(tmp_path / "drawn" / "0002-02.png")
    said = json.loads(picture.text["vilg"])
    assert said["text"] == "大象" and said["seeds"] == [8]
    assert run(capsys, *arguments, "--text", "大象", "--seed", 8, "--out", tmp_path / "again.png")[0] == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), np.asarray(picture))


SCORERS = (
    "import numpy\ndef dark(texts, pictures): return -pictures.mean((1, 2, 3))\ndef vague(texts, pictures): return 1\n"
    "def raising(texts, pictures): return {}['x']\n"
)


@pytest.fixture
def custom_scorer(tmp_path, monkeypatch):
    """A module in the current folder, which is not on Python's path, as with the installed command."""
    (tmp_path / "own_scorer.py").write_text(SCORERS)
    (tmp_path / "broken_scorer.py").write_text("dark =")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    yield
    sys.modules.pop("own_scorer", None)


def test_generate_with_another_scorer(capsys, trained, tmp_path, custom_scorer):
    arguments = ["generate", "--checkpoint", trained, "--text", "红苹果", "-n", 1, "--best-of", 6, "--out"]
    assert run(capsys, *arguments, tmp_path / "best.png", "--scorer", "own_scorer:dark")[0] == 0
    assert run(capsys, *arguments[:-3], "-n", 6, "--out", tmp_path / "all.png")[0] == 0
    said = json.loads((tmp_path / "best.png.json").read_text("utf-8"))
    assert said["scorer"] == "own_scorer:dark" and said["scores"][0] == pytest.approx(
        -np.asarray(Image.open(tmp_path / "best.png")).mean() / 255, abs=0.01
    )
    sheet = np.asarray(Image.open(tmp_path / "all.png"))
    tiles = [sheet[20 * row : 20 * row + 16, 20 * column : 20 * column + 16] for row in range(2) for column in range(3)]
    assert said["seeds"] == [int(np.argmin([tile.mean() for tile in tiles]))]
    for scorer, message in (
        ("own_scorer:vague", "the scorer returned"),
        ("own_scorer:raising", "the scorer failed: KeyError: 'x'"),
        ("own_scorer:none", "--scorer own_scorer:none: cannot be imported as MODULE:FUNCTION"),
        ("nowhere", "--scorer nowhere: cannot be imported as MODULE:FUNCTION"),
        (".own_scorer:dark", "--scorer .own_scorer:dark: cannot be imported as MODULE:FUNCTION"),
        ("broken_scorer:dark", "--scorer broken_scorer:dark: cannot be imported as MODULE:FUNCTION"),
        ("own_scorer:numpy", "--scorer own_scorer:numpy: not a function"),
    ):
        code, _, err = run(capsys, *arguments, tmp_path / "x.png", "--scorer", scorer)
        assert code == 1 and f"vilg: {message}" in err and not (tmp_path / "x.png").exists()


def test_an_export_accepts_the_same_options(capsys, trained, tmp_path, custom_scorer):
    code, out, err = run(capsys, "export", "--checkpoint", trained, "--out", tmp_path / "export")
    assert code == 0 and re.search(
        r"export: 10 files, .* MB, fp32, without the operator; difference to the checkpoint: ", out
    ), err
    (tmp_path / "0.png").write_bytes(png(0, 40))
    for options in (
        ["--text", "红苹果", "大象", "-n", 3, "--top-p", 0.9, "--best-of", 4, "--guidance", 2],
        ["--text", "红苹果", "--best-of", 3, "--scorer", "own_scorer:dark"],
        ["--text", "红苹果", "--greedy", "--image", tmp_path / "0.png", "--keep-rows", 2],
    ):
        said, inside = [], []
        for model, folder in (("checkpoint", trained), ("export", tmp_path / "export")):
            assert (
                run(
                    capsys,
                    "generate",
                    f"--{model}",
                    folder,
                    *options,
                    "--overwrite",
                    "--out",
                    tmp_path / f"{model}.png",
                )[0]
                == 0
            )
            said.append(np.asarray(Image.open(tmp_path / f"{model}.png")).astype(int))
            inside.append(json.loads((tmp_path / f"{model}.png.json").read_text("utf-8")))
            assert json.loads(Image.open(tmp_path / f"{model}.png").text["vilg"]) == inside[-1]
        assert np.abs(said[0] - said[1]).max() <= 1
        for ours, theirs in zip(*(one if isinstance(one, list) else [one] for one in inside)):
            assert theirs.pop("model") == str(tmp_path / "export") and ours.pop("model") == ours["checkpoint"]
            assert theirs.pop("scores") == pytest.approx(ours.pop("scores"), abs=1e-3) and theirs == ours
    for options in (["--greedy"], ["--beams", 3, "--length-penalty", 0.5, "--prefix", "红"], ["--seed", 4]):
        written = [
            run(capsys, "caption", f"--{model}", folder, "--image", tmp_path / "0.png", *options)[:2]
            for model, folder in (("checkpoint", trained), ("export", tmp_path / "export"))
        ]
        assert written[0] == written[1] and written[0][0] == 0
    code, _, err = run(capsys, "export", "--checkpoint", trained, "--out", tmp_path / "export")
    assert code == 1 and "vilg: --out" in err and "is there already" in err
    code, _, err = run(capsys, "generate", "--export", tmp_path, "--text", "红", "--out", tmp_path / "x.png")
    assert code == 1 and "not an export" in err


def test_caption_prints_a_line_for_each_image(capsys, trained, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number, 40))
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    code, out, err = run(capsys, "caption", "--checkpoint", trained, "--greedy", "--image", *files)
    assert code == 0 and "captioning: 2/2 " in err
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(file) for file in files]


def test_caption_with_beam_search_and_a_prefix(capsys, trained, tmp_path):
    (tmp_path / "0.png").write_bytes(png(0, 40))
    for more in ([], ["--beams", 3, "--length-penalty", 0.6]):
        code, out, err = run(
            capsys,
            "caption",
            "--checkpoint",
            trained,
            "--greedy",
            "--image",
            tmp_path / "0.png",
            "--prefix",
            "红",
            *more,
        )
        assert code == 0 and out.split("\t")[1].startswith("红"), err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["caption", "--image", "good.png", "--beams", -1], "--beams -1"),
        (
            ["caption", "--image", "good.png", "--prefix", "红苹果红苹果红苹果"],
            "--prefix: 9 tokens, but captions have at most 5",
        ),
        (["generate", "--text", " ", "--out", "x.png"], "--text: empty"),
        (["generate", "--texts", "none.txt", "--out", "x.png"], "none.txt: no such file"),
        (["generate", "--texts", "broken.png", "--out", "x.png"], "broken.png: not a text file"),
        (["generate", "--text", "a", "-n", 0, "--out", "x.png"], "-n 0"),
        (["generate", "--text", "a", "--out", "x.txt"], "--out x.txt"),
        (["generate", "--text", "a", "--out", "x.xbm"], "--out x.xbm"),
        (["generate", "--text", "a", "--out", "x.png", "--temperature", 0], "--temperature 0"),
        (["generate", "--text", "a", "--out", "x.png", "--top-k", -2], "--top-k -2"),
        (
            ["generate", "--text", "a", "--out", "x.png", "--seed", 2**63],
            f"--seed {2**63}: must be between 0 and 2^63 - 1",
        ),
        (["generate", "--text", "a\udce4", "--out", "x.png"], "'a\\udce4': not a text in UTF-8"),
        (["generate", "--text", "a", "--out", "x.png", "--top-p", 2], "--top-p 2.0"),
        (["generate", "--text", "a", "--out", "x.png", "--guidance", -1], "--guidance -1.0"),
        (["generate", "--text", "a", "--out", "x.png", "-n", 3, "--best-of", 2], "--best-of 2: fewer than the 3"),
        (["generate", "--text", "a", "--out", "x.png", "--keep-rows", 2], "--image and --keep-rows"),
        (["generate", "--text", "a", "--out", "x.png", "--image", "broken.png", "--keep-rows", 4], "--keep-rows 4"),
        (
            ["generate", "--text", "a", "--out", "x.png", "--image", "broken.png", "--keep-rows", 1],
            "broken.png: broken",
        ),
        (["generate", "--text", "红苹果红苹果", "--out", "x.png"], "红苹果红苹果: the text is too long: 6 tokens"),
        (["generate", "--text", "\u200b", "--out", "x.png"], "the text is empty"),
        (["generate", "--text", "a", "--out", "x.png", "--scorer", "none:x"], "--scorer none:x: cannot be imported"),
        (["generate", "--text", "a", "--out", "good.png"], "--out good.png: exists already; --overwrite replaces it"),
        (["generate", "--text", "a", "--out", "x.png", "--resume"], "--resume: x.png is one file"),
        (["caption", "--image", "good.png", "--prefix", "🙂"], "--prefix 🙂: the vocabulary lacks 🙂"),
        (["caption", "--image", "good.png", "-n", 3], "-n 3: greedy decoding gives equal captions"),
        (["caption", "--image", "good.png", "-n", 3, "--beams", 2], "-n 3: more captions than --beams 2"),
        (["caption", "--image", "empty"], "empty: no image in this folder"),
        (["caption", "--image", "none.png"], "none.png: no such file"),
        (["caption", "--image", "broken.png"], "broken.png: broken image"),
    ],
)
def test_bad_requests_are_one_line(capsys, trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(png(1)[:50])
    (tmp_path / "good.png").write_bytes(png(1))
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, arguments[0], "--checkpoint", trained, *arguments[1:])
    assert code == 1 and re.search(f"^vilg: {re.escape(message)}", err, re.M)
    assert not (tmp_path / "x.png").exists()


def test_captions_as_json_of_all_images_of_a_folder(capsys, trained, tmp_path):
    """Files that cannot be read are named, and the others are captioned; the exit code is 1."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number, 40))
    (folder / "1b.png").write_bytes(b"<svg/>")
    (folder / "notes.txt").write_text("not an image")
    arguments = ["caption", "--checkpoint", trained, "--image", folder, "--json", "--beams", 4, "-n", 2]
    code, out, err = run(capsys, *arguments)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and [row["image"] for row in rows] == [str(folder / f"{number}.png") for number in range(3)]
    assert f"vilg: {folder}/1b.png: broken image (not one of" in err and "1 of 4 files could not be read" in err
    pipeline = load_checkpoint_pipeline(trained)
    for row in rows:
        first, second = row["captions"]
        assert first["text"] != second["text"]
        assert first["log_likelihood"] / (first["tokens"] + 1) >= second["log_likelihood"] / (second["tokens"] + 1)
        if first["tokens"] and "##" not in first["text"]:
            score = pipeline.score(row["image"], [first["text"]])[0]
            assert first["log_likelihood"] >= score - 1e-3  # [UNK] is never generated, so the others are more likely
    (folder / "1b.png").unlink()
    assert run(capsys, *arguments)[0] == 0


def test_captions_are_greedy_unless_sampling_is_asked_for(capsys, trained, tmp_path):
    (tmp_path / "0.png").write_bytes(png(0, 40))
    arguments = ["caption", "--checkpoint", trained, "--image", tmp_path / "0.png"]
    plain, greedy = (run(capsys, *arguments, *more)[1] for more in ([], ["--greedy"]))
    assert plain == greedy
    sampled = {run(capsys, *arguments, "--seed", seed)[1] for seed in range(8)}
    assert len(sampled) > 1
    one_by_one = [run(capsys, *arguments, "--seed", seed)[1] for seed in (3, 4, 5)]
    assert run(capsys, *arguments, "--seed", 3, "-n", 3)[1] == "".join(one_by_one)
    assert run(capsys, *arguments, "--seed", "random")[0] == 0
    code, _, err = run(capsys, *arguments, "--seed", "x")
    assert code == 2 and "'x' is neither a whole number nor `random`" in err


def test_unknown_parts_of_a_text_are_named(capsys, caplog, trained, tmp_path):
    assert run(capsys, "generate", "--checkpoint", trained, "--text", "红🙂", "--out", tmp_path / "x.png")[0] == 0
    assert "红🙂: the vocabulary lacks 🙂" in caplog.text
    caplog.clear()
    arguments = ["--greedy", "-n", 2, "--out", tmp_path / "y.png"]
    assert run(capsys, "generate", "--checkpoint", trained, "--text", "红", *arguments)[0] == 0
    assert "--greedy: all 2 images of a text are equal" in caplog.text


def test_a_checkpoint_is_found_with_its_tokenizers_from_any_folder(capsys, trained, tmp_path, monkeypatch):
    """The settings name the tokenizers relative to the folder in which the training was started."""
    monkeypatch.chdir(tmp_path)
    small = small_settings(tmp_path)
    small.run.dir, small.run.name = "runs", "relative"
    small.text.vocab, small.image_tokenizer.path = "vocab.txt", "vq"
    pretrain(small)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run_folder = tmp_path / "runs" / "relative"
    for checkpoint in (run_folder, run_folder / "checkpoints" / "step-00000003", "../runs/relative"):
        code, _, err = run(
            capsys, "generate", "--checkpoint", checkpoint, "--text", "红", "--overwrite", "--out", "x.png"
        )
        assert code == 0, err
    for name in ("vocab.txt", "vq"):
        (tmp_path / name).rename(tmp_path / f"moved-{name}")
    arguments = ["generate", "--checkpoint", run_folder, "--text", "红", "--overwrite", "--out", "x.png"]
    code, _, err = run(capsys, *arguments)
    assert code == 1 and "vilg: vocab.txt: no such file" in err
    arguments += ["--vocab", tmp_path / "moved-vocab.txt", "--image-tokenizer", tmp_path / "moved-vq"]
    assert run(capsys, *arguments)[0] == 0


def test_checkpoints_and_exports_that_are_confused(capsys, trained, tmp_path, exported):
    out = ["--text", "红", "--out", tmp_path / "x.png"]
    code, _, err = run(capsys, "generate", "--checkpoint", exported, *out)
    assert code == 1 and f"vilg: {exported}: an export, not a checkpoint; use --export" in err
    code, _, err = run(capsys, "generate", "--export", trained, *out)
    assert code == 1 and "a run, not an export" in err


@pytest.mark.parametrize("name", ["\udcff.png", "红.png", "x.png"])
def test_names_and_locales_that_cannot_print_chinese(trained, tmp_path, name):
    """`vilg` in a process with an ASCII locale, and a file name that is not UTF-8."""
    command = [sys.executable, "-m", "vilg.cli", "generate", "--checkpoint", str(trained), "--text", "红苹果"]
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    done = subprocess.run(
        [*command, "--out", os.fsencode(tmp_path / name)], capture_output=True, env=environment, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).exists() and b": log p(text | image) -" in done.stdout


def test_an_interrupted_run_over_many_texts_is_resumed(trained, tmp_path):
    """Ctrl-C in a process; a resumed run has the images of an uninterrupted one."""
    texts = [WORDS[number % len(WORDS)] for number in range(600)]
    (tmp_path / "texts.txt").write_text("\n".join(texts), "utf-8")
    command = [sys.executable, "-m", "vilg.cli", "generate", "--checkpoint", str(trained), "--seed", "3"]
    command += ["--texts", str(tmp_path / "texts.txt"), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(40):
            assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err[-3000:]
    assert "vilg: interrupted" in err and "--resume continues" in err
    done = (tmp_path / "out" / "index.jsonl").read_text("utf-8").count("\n")
    assert 40 <= done < 600 and len(list((tmp_path / "out").glob("*.png"))) in (done, done + 1)
    assert not list((tmp_path / "out").glob(".*"))
    finished = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=100)
    assert finished.returncode == 0 and len(finished.stdout.splitlines()) == 600 - done
    rows = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == texts and len(list((tmp_path / "out").glob("*.png"))) == 600
    first, later = (
        np.asarray(Image.open(tmp_path / "out" / f"{number:04}-01.png")) for number in (1, 601 - len(WORDS))
    )
    assert texts[0] == texts[600 - len(WORDS)] and np.array_equal(first, later)


def test_sigterm_during_an_export_leaves_nothing(trained, tmp_path):
    command = [
        sys.executable,
        "-m",
        "vilg.cli",
        "export",
        "--checkpoint",
        str(trained),
        "--out",
        str(tmp_path / "to" / "x"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not list((tmp_path / "to").glob(".x.*/*.json")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err[-3000:]
    assert "vilg: interrupted" in err and list((tmp_path / "to").iterdir()) == []


def test_commands_do_not_replace_files_unless_asked(capsys, trained, tmp_path):
    (tmp_path / "mine").write_text("mine")
    shards, out = tmp_path / "part-0.tar", tmp_path / "mine"
    for arguments, option in (
        (["vocab", "--shards", shards, "--size", 50, "--out", out], "--out"),
        (["data", "inspect", shards, "--picture", out], "--picture"),
        (["checkpoint", "consolidate", trained, "--out", out], "--out"),
        (["import-image-tokenizer", "--from", "taming", "none.ckpt", "--out", out], "--out"),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 1 and f"vilg: {option} {out}: exists already; --overwrite replaces it" in err
        assert out.read_text() == "mine"
        if arguments[0] != "import-image-tokenizer":
            assert run(capsys, *arguments, "--overwrite")[0] == 0 and out.read_bytes() != b"mine"
            out.write_text("mine")


def test_a_vocabulary_that_differs_from_the_checkpoint_is_refused(capsys, trained, tmp_path):
    with open(tmp_path / "vocab.txt", "a") as file:
        file.write("多\n")
    code, _, err = run(capsys, "generate", "--checkpoint", trained, "--text", "a", "--out", tmp_path / "x.png")
    assert code == 1 and "were they replaced?" in err


def test_the_version():
    done = subprocess.run([sys.executable, "-m", "vilg.cli", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("vilg ")
