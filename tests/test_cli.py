"""The command line in one process: help with examples, one-line errors, exit codes, generating and captioning."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import png
from vilg.cli import main
from vilg.generation.from_checkpoint import load_checkpoint_pipeline
from vilg.generation.output import GenerationRequest, generate, read_image
from vilg.generation.sampling import Sampler
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
    everything, best = (json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("all", "best"))
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
        codes = generate(
            pipeline,
            GenerationRequest(["红苹果"], image=tmp_path / "given.png", keep_rows=rows, sampler=greedy),
            tmp_path / "again.png",
        ).codes[0, 0]
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
        "--out",
        tmp_path / "x.png",
    )
    assert code == 0 and len(out.splitlines()) == 3
    assert [record.args[0] for record in caplog.records if "is truncated" in record.msg] == ["一个很长很长很长的句"]
    assert [one["text"] for one in json.loads((tmp_path / "x.json").read_text("utf-8"))] == [
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
    index = json.loads((tmp_path / "drawn" / "index.json").read_text("utf-8"))
    assert [one["files"] for one in index] == [["0001-01.png", "0001-02.png"], ["0002-01.png", "0002-02.png"]]
    code, _, err = run(capsys, *arguments, "--text", "红苹果", "--out", tmp_path / "drawn")
    assert code == 1 and "already contains images" in err
    picture = Image.open(tmp_path / "drawn" / "0002-02.png")
    said = json.loads(picture.text["vilg"])
    assert said["text"] == "大象" and said["seeds"] == [8]
    assert run(capsys, *arguments, "--text", "大象", "--seed", 8, "--out", tmp_path / "again.png")[0] == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), np.asarray(picture))


JUDGE = (
    "import numpy\ndef dark(texts, pictures): return -pictures.mean((1, 2, 3))\ndef vague(texts, pictures): return 1\n"
)


@pytest.fixture
def custom_scorer(tmp_path, monkeypatch):
    """A module in the current folder, which is not on Python's path, as with the installed command."""
    (tmp_path / "own_judge.py").write_text(JUDGE)
    (tmp_path / "broken_judge.py").write_text("dark =")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    yield
    sys.modules.pop("own_judge", None)


def test_generate_with_another_scorer(capsys, trained, tmp_path, custom_scorer):
    arguments = ["generate", "--checkpoint", trained, "--text", "红苹果", "-n", 1, "--best-of", 6, "--out"]
    assert run(capsys, *arguments, tmp_path / "best.png", "--scorer", "own_judge:dark")[0] == 0
    assert run(capsys, *arguments[:-3], "-n", 6, "--out", tmp_path / "all.png")[0] == 0
    said = json.loads((tmp_path / "best.json").read_text("utf-8"))
    assert said["scorer"] == "own_judge:dark" and said["scores"][0] == pytest.approx(
        -np.asarray(Image.open(tmp_path / "best.png")).mean() / 255, abs=0.01
    )
    sheet = np.asarray(Image.open(tmp_path / "all.png"))
    tiles = [sheet[20 * row : 20 * row + 16, 20 * column : 20 * column + 16] for row in range(2) for column in range(3)]
    assert said["seeds"] == [int(np.argmin([tile.mean() for tile in tiles]))]
    for scorer, message in (
        ("own_judge:vague", "the scorer returned"),
        ("own_judge:none", "--scorer own_judge:none: cannot be imported as MODULE:FUNCTION"),
        ("nowhere", "--scorer nowhere: cannot be imported as MODULE:FUNCTION"),
        (".own_judge:dark", "--scorer .own_judge:dark: cannot be imported as MODULE:FUNCTION"),
        ("broken_judge:dark", "--scorer broken_judge:dark: cannot be imported as MODULE:FUNCTION"),
        ("own_judge:numpy", "--scorer own_judge:numpy: not a function"),
    ):
        code, _, err = run(capsys, *arguments, tmp_path / "x.png", "--scorer", scorer)
        assert code == 1 and f"vilg: {message}" in err and not (tmp_path / "x.png").exists()


def test_an_export_accepts_the_same_options(capsys, trained, tmp_path, custom_scorer):
    code, out, err = run(capsys, "export", "--checkpoint", trained, "--out", tmp_path / "export")
    assert code == 0 and re.search(
        r"export: 13 files, .* MB, without the operator; difference to the checkpoint: ", out
    ), err
    (tmp_path / "0.png").write_bytes(png(0, 40))
    for options in (
        ["--text", "红苹果", "大象", "-n", 3, "--top-p", 0.9, "--best-of", 4, "--guidance", 2],
        ["--text", "红苹果", "--best-of", 3, "--scorer", "own_judge:dark"],
        ["--text", "红苹果", "--greedy", "--image", tmp_path / "0.png", "--keep-rows", 2],
    ):
        said, inside = [], []
        for model, folder in (("checkpoint", trained), ("export", tmp_path / "export")):
            assert run(capsys, "generate", f"--{model}", folder, *options, "--out", tmp_path / f"{model}.png")[0] == 0
            said.append(np.asarray(Image.open(tmp_path / f"{model}.png")).astype(int))
            inside.append(json.loads((tmp_path / f"{model}.json").read_text("utf-8")))
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
        (["caption", "--image", "none.png"], "none.png: no such file"),
        (["caption", "--image", "broken.png"], "broken.png: broken image"),
    ],
)
def test_bad_requests_are_one_line(capsys, trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(png(1)[:50])
    (tmp_path / "good.png").write_bytes(png(1))
    code, _, err = run(capsys, arguments[0], "--checkpoint", trained, *arguments[1:])
    assert code == 1 and re.search(f"^vilg: {re.escape(message)}", err, re.M)
    assert not (tmp_path / "x.png").exists()


def test_a_vocabulary_that_differs_from_the_checkpoint_is_refused(capsys, trained, tmp_path):
    with open(tmp_path / "vocab.txt", "a") as file:
        file.write("多\n")
    code, _, err = run(capsys, "generate", "--checkpoint", trained, "--text", "a", "--out", tmp_path / "x.png")
    assert code == 1 and "were they replaced?" in err


def test_the_version():
    done = subprocess.run([sys.executable, "-m", "vilg.cli", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("vilg ")
