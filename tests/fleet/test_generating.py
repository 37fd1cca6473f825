"""`vilg generate` on several processes, killed and continued, and `vilg evaluate fid` of what it drew."""

import json
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.conftest import small_settings, write_shards
from tests.evaluation.fid.conftest import inception_files  # noqa: F401  a fixture
from tests.processes import fleetrun, fleetrun_command, started, vilg
from vilg.training.entry_points import pretrain

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(300)]

TEXTS = [f"{colour}{thing}" for colour in "红绿蓝黄白黑" for thing in ("苹果", "象", "旗", "房子")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generating")
    write_shards(folder)
    settings = small_settings(folder, "train.steps=2", "checkpoint.every_steps=2")
    pretrain(settings)
    (folder / "texts.txt").write_text("\n".join(TEXTS), "utf-8")
    return folder


def arguments(trained, out, *more):
    return [
        "--checkpoint",
        str(trained / "runs/run"),
        "--texts",
        str(trained / "texts.txt"),
        "--out",
        str(out),
        *more,
    ]


def images(folder):
    """Pixels; the stored scores of a text differ by rounding between groups of other texts."""
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in folder.glob("*.png")}


def test_two_processes_draw_what_one_draws_also_if_they_are_killed(trained, tmp_path):
    done = vilg("generate", *arguments(trained, tmp_path / "whole"), cwd=trained)
    assert done.returncode == 0, done.stderr
    whole = images(tmp_path / "whole")
    assert len(whole) == len(TEXTS)
    out = tmp_path / "out"
    with started(fleetrun_command(2, "generate", *arguments(trained, out), cwd=tmp_path), tmp_path) as process:
        until = time.monotonic() + 60
        while len(list(out.glob("*.png"))) < 3 and time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert len(images(out)) >= 3
    refused = fleetrun(2, "generate", *arguments(trained, out), cwd=tmp_path)
    assert refused.returncode != 0 and "--resume continues" in refused.stderr and "Traceback" not in refused.stderr
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png") if listed(out, path.name)}
    done = fleetrun(2, "generate", *arguments(trained, out, "--resume"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert images(out) == whole
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())  # not drawn twice
    names = [json.loads(line)["files"][0] for index in out.glob("index*.jsonl") for line in index.open()]
    assert sorted(names) == sorted(whole)


def listed(out, name):
    return any(name in index.read_text("utf-8") for index in out.glob("index*.jsonl"))


def test_two_processes_measure_the_fid_of_one(trained, tmp_path, inception_files):  # noqa: F811
    done = vilg("generate", *arguments(trained, tmp_path / "drawn"), cwd=trained)
    assert done.returncode == 0, done.stderr
    weights = str(inception_files["tensorflow"][0])
    given = [
        "--images",
        str(tmp_path / "drawn"),
        "--reference",
        str(trained / "part-*.tar"),
        "--weights",
        weights,
        "--json",
    ]
    one = vilg("evaluate", "fid", *given, cwd=tmp_path)
    two = fleetrun(2, "evaluate", "fid", *given, cwd=tmp_path)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    printed = [json.loads(line) for line in (one.stdout + two.stderr).splitlines() if line.startswith("{")]
    assert len(printed) == 2 and printed[0]["images"] == len(TEXTS)
    assert printed[0]["FID"] == pytest.approx(printed[1]["FID"], rel=1e-4)
    assert printed[0]["KID_x1000"] == pytest.approx(printed[1]["KID_x1000"], rel=1e-3, abs=1e-3)
