"""`vilg plan`: the 10-billion-parameter model, and the suggested change when a job does not fit."""

import json

import pytest

from vilg import config
from vilg.cli import main
from vilg.errors import SettingsError
from vilg.plan.estimate import estimate
from vilg.plan.input_sizes import PAPER
from vilg.plan.suggest import suggest

BIG = ["plan", "-c", "fleet_configs/10b.yaml"]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def settings(*overrides: str, file: str = "fleet_configs/10b.yaml") -> config.Pretraining:
    return config.resolve(config.Pretraining, file, list(overrides))


def test_ten_billion_parameters_fit_eight_devices_of_80_gb():
    plan = estimate(settings(), PAPER, 0.4)
    assert plan.parameters == 9_908_056_712
    assert plan.fits and plan.device_limit == 80 * 10**9
    assert plan.states.device == pytest.approx(plan.parameters * (2 + 16 / 8), rel=0.02)  # stage 2, 8 uneven shards
    # 6 operations per parameter and token, and a few for attention. Embeddings are only looked up.
    tokens = 2048 * 2 * (64 + 1024)
    assert plan.operations == pytest.approx(6 * plan.parameters * tokens, rel=0.05)
    assert plan.seconds == pytest.approx(plan.operations * 4 / 3 / (8 * 312e12 * 0.4), rel=0.02)  # recompute: + 1/3


def test_more_nodes_divide_the_time_and_keep_the_memory():
    one, four = (estimate(settings(f"cluster.nodes={nodes}"), PAPER, 0.4) for nodes in (1, 4))
    assert one.device_bytes == four.device_bytes and one.seconds == pytest.approx(4 * four.seconds)
    assert one.traffic.across == 0 < four.traffic.across


@pytest.mark.parametrize(
    "overrides",
    [
        ["distributed.recompute=none", "train.micro_batch=32"],
        ["distributed.stage=1", "cluster.device_memory=60"],
        ["cluster.device_memory=48"],
    ],
)
def test_suggested_change_fits(overrides):
    before = settings(*overrides)
    assert not estimate(before, PAPER, 0.4).fits
    changes, promised = suggest(before, PAPER, 0.4)
    after = estimate(settings(*overrides, *changes), PAPER, 0.4)
    assert changes and after == promised and after.fits


def test_smaller_micro_batch_is_preferred_to_recompute():
    """The suggestion halves the micro-batch and does not enable recompute."""
    small = settings("cluster.device_memory=20", file="fleet_configs/lite.yaml")
    assert suggest(small, PAPER, 0.4)[0] == ["train.micro_batch=8"]


def test_every_device_must_hold_the_whole_model_before_sharding():
    """Every device holds the whole model in fp32 at the start. If that does not fit, no setting helps."""
    plan = estimate(settings("cluster.device_memory=40", "distributed.stage=3"), PAPER, 0.4)
    assert plan.start == 4 * plan.parameters and not plan.fits
    assert suggest(settings("cluster.device_memory=40"), PAPER, 0.4) is None


def test_estimate_includes_host_memory():
    offload = ["distributed.stage=3", "distributed.offload=true"]
    assert estimate(settings(*offload), PAPER, 0.4).fits
    plan = estimate(settings(*offload, "cluster.host_memory=100"), PAPER, 0.4)
    assert plan.saving == pytest.approx(12 * plan.parameters)
    assert plan.host_bytes == pytest.approx((16 + 12) * plan.parameters, rel=0.01) and not plan.fits
    in_place = estimate(settings(*offload, "checkpoint.asynchronous=false"), PAPER, 0.4)
    assert in_place.saving == 0 and in_place.host_bytes == plan.host_bytes - plan.saving


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["distributed.sharding_degree=3"], "does not divide the 8 processes"),
        (["train.global_batch=100"], "not a multiple"),
        (["data.image_size=100"], "8 pixels a side"),
    ],
)
def test_settings_that_pretrain_refuses_are_refused(overrides, said):
    with pytest.raises(SettingsError, match=said):
        estimate(settings(*overrides), PAPER, 0.4)


def test_command_prints_text_and_json(capsys):
    assert main(BIG) == 0
    said = capsys.readouterr().out
    assert "9,908,056,712 parameters on 8 devices" in said and "of 80: fits" in said
    assert main([*BIG, "cluster.nodes=4", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] and plan["suggestion"] is None and plan["ranks"] == 32 and plan["states"]["moments"] > 0


def test_command_suggests_a_change_when_the_job_does_not_fit(capsys):
    small = ["plan", "-c", "fleet_configs/lite.yaml", "cluster.device_memory=20"]
    assert main(small) == 1
    said = capsys.readouterr().out
    assert "DOES NOT FIT" in said and "Fits with: train.micro_batch=8" in said
    assert main([*small, "--json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert (
        not plan["fits"] and plan["suggestion"]["overrides"] == ["train.micro_batch=8"] and plan["suggestion"]["fits"]
    )
    assert main([*BIG, "cluster.device_memory=10"]) == 1
    assert "smaller model or larger devices" in capsys.readouterr().out


def test_bad_input_is_reported_without_traceback(capsys):
    for arguments, said in ((["--utilisation", "0"], "must be in (0, 1]"), (["cluster.device_memory=0"], "positive")):
        assert main([*BIG, *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error


def test_missing_image_tokenizer_of_the_emoji_config_is_reported(capsys, tmp_path):
    assert (
        main(
            ["plan", "-c", "fleet_configs/emoji.yaml", f"image_tokenizer.path={tmp_path}", "cluster.devices_per_node=2"]
        )
        == 1
    )
    assert "config.json: no such file" in capsys.readouterr().err
