"""Suggests the change of settings with the shortest step that makes a job fit."""

from collections.abc import Iterator
from dataclasses import replace

from vilg import config
from vilg.errors import SettingsError
from vilg.plan.estimate import Estimate, describe_model, estimate
from vilg.plan.input_sizes import InputSizes

# Bytes per second, used only to rank changes: NVLink between devices, the network of a node, device to host, and host
# memory, where offloaded states are updated.
_INSIDE, _ACROSS, _TO_HOST, _HOST = 200e9, 50e9, 20e9, 100e9
_SMALLER = (
    0.02  # extra share of a step's time for each halving of the micro-batch, since smaller products are less efficient
)


def suggest(settings: config.Pretraining, sizes: InputSizes, utilisation: float) -> tuple[list[str], Estimate] | None:
    """(overrides, resulting estimate) with the shortest step among all settings that fit, or None if nothing fits.

    Tries smaller micro-batches, more recompute, higher stages, sharding over more devices of a node, and offload. Never
    changes the model, the global batch or the number of machines: replicas on other nodes do not reduce memory.
    """
    best, model = None, describe_model(settings, sizes)
    for overrides, changed in _changes(settings):
        try:
            result = estimate(changed, sizes, utilisation, model)
        except SettingsError:  # a batch that does not divide, or a combination that is not supported
            continue
        seconds = _seconds(result, settings, changed)
        if result.fits and (best is None or seconds < best[0]):
            best = seconds, overrides, result
    return best and best[1:]


def _changes(settings: config.Pretraining) -> Iterator[tuple[list[str], config.Pretraining]]:
    distributed = settings.distributed
    micro = settings.train.micro_batch
    sizes = [micro >> halvings for halvings in range(micro.bit_length())]
    recomputes = dict.fromkeys([distributed.recompute, *("4", "2", "block")])
    degree, all_of_a_node = distributed.sharding_degree, settings.cluster.devices_per_node
    splits = dict.fromkeys((stage, degree) for stage in range(distributed.stage, 4))
    if degree not in (0, all_of_a_node):
        splits |= dict.fromkeys((stage, all_of_a_node) for stage in range(max(1, distributed.stage), 4))
    for size in sizes:
        for recompute in recomputes:
            for stage, shards in splits:
                for offload in dict.fromkeys([distributed.offload, True]):
                    try:
                        yield _changed(settings, size, recompute, stage, shards, offload)
                    except SettingsError:
                        continue


def _changed(settings: config.Pretraining, size: int, recompute: str, stage: int, degree: int, offload: bool):
    new = {
        "train.micro_batch": size,
        "distributed.recompute": recompute,
        "distributed.stage": stage,
        "distributed.sharding_degree": degree,
        "distributed.offload": offload,
    }
    changed = replace(
        settings,
        train=replace(settings.train, micro_batch=size),
        distributed=replace(
            settings.distributed, recompute=recompute, stage=stage, sharding_degree=degree, offload=offload
        ),
    )
    overrides = []
    for key, value in new.items():
        section, name = key.split(".")
        if getattr(getattr(settings, section), name) != value:
            overrides.append(f"{key}={str(value).lower()}")
    return overrides, changed


def _seconds(result: Estimate, settings: config.Pretraining, changed: config.Pretraining) -> float:
    seconds = result.seconds + result.traffic.inside / _INSIDE + result.traffic.across / _ACROSS
    seconds *= 1 + _SMALLER * (settings.train.micro_batch // changed.train.micro_batch).bit_length()
    return seconds + result.traffic.host / _TO_HOST + 2 * result.host_bytes / _HOST
