"""Real fleetrun on two processes: the same losses, records and errors as one process."""

import os
import signal
import time

import numpy as np
import pytest

from tests.conftest import pair, small_overrides, write_shard
from tests.processes import fleetrun, fleetrun_command, metrics, ranks_of, running, started, vilg
from tests.training.conftest import SIZES
from vilg import checkpoint
from vilg.export.exporter import export

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]

EXACT = ("loss", "loss_t2i", "loss_i2t", "lr", "grad_norm", "consumed_samples")


def overrides(folder, name, *more):
    return [*small_overrides(folder), f"run.name={name}", "train.steps=20", "checkpoint.every_steps=10", *more]


def exact(folder, name):
    return np.array([[line[key] for key in EXACT] for line in metrics(folder / "runs" / name)])


def test_two_processes_train_as_one_and_resume_to_the_last_bit(small, tmp_path):
    one = vilg("pretrain", *overrides(tmp_path, "one"), cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    two = fleetrun(2, "pretrain", *overrides(tmp_path, "two"), cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    alone, together = exact(tmp_path, "one"), exact(tmp_path, "two")
    assert len(alone) == len(together) == 20
    assert np.abs(alone - together)[:, :3].max() < 1e-5
    assert (alone[:, 3] == together[:, 3]).all() and (alone[:, 5] == together[:, 5]).all()

    lines = metrics(tmp_path / "runs" / "two")
    assert all(0 < line["communication_seconds"] < line["seconds"] for line in lines)
    assert all(
        line["tokens_per_second_per_device"] == pytest.approx(line["tokens_per_second"] / 2, rel=1e-5) for line in lines
    )

    # Replicas divide the writing of a checkpoint, and any number of ranks can read it.
    manifest, tensors = checkpoint.load(tmp_path / "runs" / "two" / "checkpoints" / "step-00000020")
    assert manifest.topology == {"ranks": 2, "shards": 1} and len(manifest.files) == 2
    written_by_one = checkpoint.load(tmp_path / "runs" / "one" / "checkpoints" / "step-00000020")[1]
    assert tensors.keys() == written_by_one.keys()

    halves = fleetrun(2, "pretrain", *overrides(tmp_path, "halves", "train.stop_at=10"), cwd=tmp_path)
    assert halves.returncode == 0, halves.stderr
    halves = fleetrun(2, "pretrain", *overrides(tmp_path, "halves", "resume=auto"), cwd=tmp_path)
    assert halves.returncode == 0, halves.stderr
    assert "resumed" in halves.stderr
    assert (exact(tmp_path, "halves") == together).all()

    from_two = tmp_path / "runs" / "two" / "checkpoints" / "step-00000010"
    alone_on = vilg("pretrain", *overrides(tmp_path, "alone_on", f"resume={from_two}"), cwd=tmp_path)
    assert alone_on.returncode == 0, alone_on.stderr
    assert np.abs(exact(tmp_path, "alone_on") - alone[10:])[:, :3].max() < 1e-5


def test_a_batch_that_does_not_divide_is_one_line(small, tmp_path):
    done = fleetrun(2, "pretrain", *overrides(tmp_path, "odd", "train.global_batch=4"), cwd=tmp_path)
    assert done.returncode != 0
    assert "vilg: train.global_batch=4: not a multiple of train.micro_batch=4 x 2 ranks" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_sample_of_one_rank_stops_both_and_is_named(small, tmp_path):
    write_shard(tmp_path / "part-7.tar", pair(30) | {"00030.png": b"broken"})
    done = fleetrun(2, "pretrain", *overrides(tmp_path, "faults", "data.max_bad_samples=0"), cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("vilg: ") >= 2 and "part-7.tar:00030: broken image" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_checkpoint_that_cannot_be_written_stops_both_ranks(small, tmp_path):
    (tmp_path / "runs" / "full").mkdir(parents=True)
    (tmp_path / "runs" / "full" / "checkpoints").write_text("a file where the folder should be")
    done = fleetrun(2, "pretrain", *overrides(tmp_path, "full"), cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("rank 0 could not create the folder") >= 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("update, heldout", [("gradient", 3), ("ema", 1)])
def test_an_image_tokenizer_on_two_processes_equals_one_process(tmp_path, shards, update, heldout):
    """Codebooks stay equal on both ranks through restarts of dead codes. Losses, codes and averages equal those of one
    process.

    So do the metrics: of three held-out images, one rank has two. Of one image, the other rank has none.
    """
    write_shard(tmp_path / "heldout.tar", {k: v for n in range(heldout) for k, v in pair(100 + n).items()})
    common = [
        f"run.dir={tmp_path}/runs",
        f"data.shards=['{shards[0]}']",
        "data.image_size=16",
        "vqvae.base_channels=32",
        "vqvae.residual_blocks=1",
        "vqvae.codebook_size=32",
        "vqvae.code_dim=8",
        "dead_codes.every=4",
        "train.steps=16",
        "train.global_batch=8",
        "train.lr=0.003",
        "train.warmup=2",
        "checkpoint.every_steps=16",
        f"codebook.update={update}",
        f"data.heldout=['{tmp_path}/heldout.tar']",
        "train.eval_every=16",
    ]
    common += ["train.micro_batch=2"]  # so that a step has four micro-batches on one process and two on two processes
    one = vilg("train-image-tokenizer", *common, "run.name=one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    if update == "gradient":
        two = fleetrun(2, "train_image_tokenizer", *common, "run.name=two", cwd=tmp_path)
    else:  # the second half on one process again
        half = fleetrun(2, "train_image_tokenizer", *common, "run.name=two", "train.stop_at=10", cwd=tmp_path)
        assert half.returncode == 0, half.stderr
        two = vilg("train-image-tokenizer", *common, "run.name=two", "resume=auto", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    runs = [metrics(tmp_path / "runs" / name) for name in ("one", "two")]
    assert sum(line.get("codes_restarted", 0) for line in runs[0]) > 0
    assert [line.get("codes_restarted") for line in runs[0]] == [line.get("codes_restarted") for line in runs[1]]
    assert np.allclose([line["loss"] for line in runs[0]], [line["loss"] for line in runs[1]], atol=1e-4)
    measured = [{key: value for key, value in run[-1].items() if key.startswith("heldout_")} for run in runs]
    assert set(measured[0]) == {f"heldout_{name}" for name in ("psnr", "ssim", "codes_used", "perplexity")}
    assert measured[1] == pytest.approx(measured[0], rel=1e-3)
    last = [checkpoint.load(tmp_path / "runs" / name / "checkpoints" / "step-00000016")[1] for name in ("one", "two")]
    assert ("extra/average_sums" in last[0]) == (update == "ema")
    for tensor in ("model/quantizer.codebook", "extra/average_counts", "extra/average_sums"):
        if tensor in last[0]:
            assert np.allclose(last[0][tensor], last[1][tensor], atol=1e-4)


def test_a_dvae_on_two_processes_has_the_codes_of_one_process(tmp_path, shards):
    """The last step is the first quantized one. The codebook is k-means of features that two ranks computed.

    Rounding decides about a feature half-way between two codes, and changes these two codes slightly.
    """
    common = [
        f"run.dir={tmp_path}/runs",
        f"data.shards=['{shards[0]}']",
        "data.image_size=16",
        "kind=dvae",
        *SIZES["dvae"],
        "autoencoder.until=0.9375",
        "train.steps=16",
        "train.global_batch=8",
        "train.lr=0.003",
        "train.min_lr_ratio=0",
        "train.warmup=2",
        "checkpoint.every_steps=16",
    ]
    one = vilg("train-image-tokenizer", *common, "run.name=one", "train.micro_batch=8", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    two = fleetrun(2, "train_image_tokenizer", *common, "run.name=two", "train.micro_batch=4", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    runs = [metrics(tmp_path / "runs" / name) for name in ("one", "two")]
    assert np.allclose([line["loss"] for line in runs[0][:15]], [line["loss"] for line in runs[1][:15]], atol=1e-4)
    assert all("kl" not in line for line in runs[1][:15]) and "kl" in runs[1][15]
    codebooks = [
        checkpoint.load(tmp_path / "runs" / name / "checkpoints" / "step-00000016")[1]["model/codebook"]
        for name in ("one", "two")
    ]
    apart = abs(codebooks[0] - codebooks[1]).max(
        1
    )  # for each of 32 codes, each a mean of about 128 features of at most 2
    assert (apart < 1e-4).mean() > 0.9 and apart.max() < 0.02


def test_a_vqgan_on_two_processes_resumes_to_the_last_bit_after_its_discriminator_starts(tmp_path, shards):
    common = [
        f"run.dir={tmp_path}/runs",
        f"data.shards=['{shards[0]}']",
        "data.image_size=16",
        "kind=vqgan",
        *SIZES["vqgan"],
        "train.steps=8",
        "train.global_batch=4",
        "train.micro_batch=2",
        "checkpoint.every_steps=4",
    ]
    for more in (["run.name=whole"], ["run.name=parts", "train.stop_at=6"], ["run.name=parts", "resume=auto"]):
        done = fleetrun(2, "train_image_tokenizer", *common, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    keys = ("loss", "loss_discriminator", "grad_norm", "grad_norm_discriminator", "adaptive_weight")
    whole, parts = (
        [[line.get(key) for key in keys] for line in metrics(tmp_path / "runs" / name)] for name in ("whole", "parts")
    )
    assert whole == parts and len(whole) == 8 and whole[-1][1] is not None


def test_a_sharded_run_evaluates_samples_images_and_resumes_on_other_world_sizes(small, tmp_path):
    """Every rank holds half of the model, so sampling and evaluation also need all ranks."""
    sharded = [
        "distributed.stage=3",
        "distributed.segment_size=0",
        "distributed.recompute=block",
        "train.micro_batch=2",
    ]
    # Held-out pairs that do not divide: one rank has two batches of them, the other one.
    write_shard(tmp_path / "odd.tar", {name: data for number in range(5) for name, data in pair(number).items()})
    heldout = f"data.heldout=['{tmp_path}/odd.tar']"
    often = ["train.eval_every=10", "train.sample_images_every=10", heldout]
    one = vilg("pretrain", *overrides(tmp_path, "one", "train.eval_every=10", heldout), cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    two = fleetrun(2, "pretrain", *overrides(tmp_path, "two", *sharded, *often), cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    alone, together = exact(tmp_path, "one"), exact(tmp_path, "two")
    assert np.abs(alone - together)[:, :3].max() < 1e-5
    measured = [metrics(tmp_path / "runs" / name)[9]["heldout_nll_t2i"] for name in ("one", "two")]
    assert abs(measured[0] - measured[1]) < 1e-4
    files = [(tmp_path / "runs" / name / "heldout-codes.npz").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]  # one process encoded all images; of two, here only the first had some

    half = tmp_path / "runs" / "two" / "checkpoints" / "step-00000010"
    manifest = checkpoint.read_manifest(half)
    assert manifest.topology == {"ranks": 2, "shards": 2}
    assert len(manifest.tensors["moment1/image_head.weight"].slices) == 2

    again = fleetrun(2, "pretrain", *overrides(tmp_path, "again", *sharded, f"resume={half}"), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (exact(tmp_path, "again") == together[10:]).all()  # to the last bit with the topology that wrote it
    alone_on = vilg("pretrain", *overrides(tmp_path, "alone_on", f"resume={half}"), cwd=tmp_path)
    assert alone_on.returncode == 0, alone_on.stderr
    assert np.abs(exact(tmp_path, "alone_on") - alone[10:])[:, :3].max() < 1e-5
    stage_2 = ["distributed.stage=2", "train.micro_batch=4"]
    other = fleetrun(2, "pretrain", *overrides(tmp_path, "other", *stage_2, f"resume={half}"), cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert np.abs(exact(tmp_path, "other") - alone[10:])[:, :3].max() < 1e-5
    made = export(half, tmp_path / "export")  # no rank had the whole model; the export compares itself with it
    assert made.self_test["logits"] < 1e-4 and made.checkpoint == str(half)


@pytest.mark.parametrize("receiver, code", [("fleetrun", signal.SIGTERM), ("rank", os.EX_TEMPFAIL)])
def test_sigterm_to_vilg_fleetrun_or_a_rank_saves_and_is_no_success(small, tmp_path, receiver, code):
    """What a container and Slurm send, to one or all nodes. A scheduler starts the node again unless it succeeds."""
    slow = overrides(tmp_path, "preempted", "train.eval_every=1", "checkpoint.every_steps=1000")
    command = fleetrun_command(2, "pretrain", *slow, cwd=tmp_path)
    assert command[1:3] == ["-m", "paddle.distributed.launch"]
    command[1:3] = ["-m", "vilg.cli", "fleetrun", "--grace_period", "60"]
    run = tmp_path / "runs" / "preempted"
    with started(command, tmp_path) as process:
        while not ((run / "metrics.jsonl").exists() and len(metrics(run)) >= 3):
            time.sleep(0.05)
            assert process.poll() is None, process.communicate()
        os.kill(process.pid if receiver == "fleetrun" else ranks_of("preempted")[0], signal.SIGTERM)
        assert process.wait(timeout=60) == code
        assert not running("run.name=preempted")
    newest = checkpoint.checkpoints_in(run / "checkpoints")
    assert [path.name for path in newest] == [checkpoint.step_directory(len(metrics(run)))]


def test_sigterm_to_one_rank_saves_on_all_ranks_and_exits_with_0(small, tmp_path):
    four = "train.micro_batch=1"  # micro-batches in a step: the signal usually arrives in the middle of one
    whole = fleetrun(2, "pretrain", *overrides(tmp_path, "whole", four), cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    # An evaluation after each step makes the run slow enough.
    slow = overrides(tmp_path, "ended", four, "train.eval_every=1", "checkpoint.every_steps=1000")
    with started(fleetrun_command(2, "pretrain", *slow, cwd=tmp_path), tmp_path) as process:
        file = tmp_path / "runs" / "ended" / "metrics.jsonl"
        while not (file.exists() and len(file.read_text().splitlines()) >= 3):
            time.sleep(0.05)
            assert process.poll() is None, process.stderr.read()
        ranks = ranks_of("ended")
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    steps = len(metrics(tmp_path / "runs" / "ended"))
    assert 3 <= steps < 20
    assert [path.name for path in checkpoint.checkpoints_in(tmp_path / "runs" / "ended" / "checkpoints")] == [
        checkpoint.step_directory(steps)
    ]
    assert f"stopped: step {steps} is saved" in (tmp_path / "log" / "workerlog.0").read_text()
    going_on = fleetrun(2, "pretrain", *overrides(tmp_path, "ended", four, "resume=auto"), cwd=tmp_path)
    assert going_on.returncode == 0, going_on.stderr
    assert (exact(tmp_path, "ended") == exact(tmp_path, "whole")).all()
    assert not running("run.name=ended")
