"""Estimates memory, traffic and time of a job before it runs."""

from dataclasses import asdict, dataclass, replace
from math import prod

import paddle

from vilg import config
from vilg.attention.operator import HEAD_SIZES_ON_GPU
from vilg.config import require
from vilg.distributed.recompute import recomputed_blocks
from vilg.distributed.topology import Topology, build_topology
from vilg.model import flops
from vilg.model.transformer import Transformer
from vilg.plan import activations
from vilg.plan.input_sizes import InputSizes
from vilg.plan.schedule import RunSchedule, run_schedule
from vilg.plan.states import AVERAGE, MASTER, MOMENTS, States, gradient_width, padded_to_shards, states
from vilg.plan.traffic import Traffic, traffic

# Assumed for everything that is not computed: driver context, NCCL channels, fragmentation, and the image tokenizer
# with the images of a micro-batch.
RESERVE = 6 * 10**9
_BUCKET = 128 * 2**20  # bytes of gradients that Paddle's fused_allreduce_gradients reduces at once


@dataclass(frozen=True)
class Estimate:
    """Memory of the fullest device and node, and traffic, operations and time of one step. Sizes are in bytes; see
    docs/launch.md.

    - start: the whole model in fp32, which every device holds before it is sharded
    - activations: of one direction of a micro-batch
    - buffers: communication buffers during computation
    - update: what step() allocates in addition to the states, after the activations were freed
    - operations: of all devices, without recompute; recomputed: additional operations for recompute
    - seconds: of a step, if the devices reach `utilisation` of their peak and never wait
    - run: of the whole run at that pace
    - saving: host memory of a node for the copy that is written while training continues
    """

    ranks: int
    devices_per_node: int
    replicas: int
    shards: int
    accumulation: int
    parameters: int
    states: States
    start: int
    activations: int
    buffers: int
    update: int
    device_bytes: int
    device_limit: int
    saving: int
    host_bytes: int
    host_limit: int
    traffic: Traffic
    operations: float
    recomputed: float
    seconds: float
    run: RunSchedule

    @property
    def fits(self) -> bool:
        return self.device_bytes <= self.device_limit and self.host_bytes <= self.host_limit

    def to_dict(self) -> dict:
        return asdict(self) | {"fits": self.fits}


def describe_model(settings: config.Pretraining, sizes: InputSizes) -> Transformer:
    """The model without weights. It depends on the sections model, text, data, attention and loss only."""
    with paddle.LazyGuard():
        return sizes.model(settings)


def estimate(
    settings: config.Pretraining, sizes: InputSizes, utilisation: float, model: Transformer | None = None
) -> Estimate:
    """Estimate a job. Nothing is computed and no weights are created.

    utilisation: share of cluster.device_tflops that the devices reach. model: the result of `describe_model`, which
    takes most of the time, if it is known already. Raises SettingsError for settings that `vilg
    pretrain` refuses.
    """
    cluster, distributed = settings.cluster, settings.distributed
    require(0 < utilisation <= 1, f"--utilisation {utilisation}: must be in (0, 1]")
    nodes = cluster.nodes or 1
    topology = build_topology(distributed, nodes * cluster.devices_per_node, cluster.devices_per_node)
    accumulation = settings.train.accumulation(topology.ranks)
    width = 4 if distributed.precision == "fp32" else 2
    model = model or describe_model(settings, sizes)
    parameters = sum(prod(parameter.shape) for parameter in model.parameters())
    shapes = {name: list(value.shape) for name, value in model.named_parameters() if not value.stop_gradient}
    fullest = max(states(list(shapes.values()), distributed, topology.shards, width), key=lambda memory: memory.device)
    frozen = (parameters - sum(map(prod, shapes.values()))) * width
    in_shards = topology.shards if distributed.stage == 3 else 1
    fullest = fullest.with_averages() if settings.train.ema_decay else fullest
    fullest = replace(fullest, parameters=fullest.parameters + frozen // in_shards)
    worked = activations.peak(
        model,
        _backend(settings),
        distributed.recompute,
        settings.train.micro_batch,
        width,
        gradient_width(distributed, width),
        z_loss=settings.loss.z_loss > 0,
    )
    buffers = _buffers(shapes, distributed, topology, width)
    update = _update(shapes, distributed, topology, width)
    pairs, directions = settings.train.global_batch, len(model.trained_directions)
    training = fullest.device + max(worked + buffers, update)
    stored = MASTER + MOMENTS + (AVERAGE if settings.train.ema_decay else 0)
    copied = stored * parameters // topology.ranks * cluster.devices_per_node
    saving = copied if settings.checkpoint.asynchronous else 0
    operations, again = flops.training_step(model, pairs), _recomputed(model, distributed, pairs)
    seconds = (operations + again) / (topology.ranks * cluster.device_tflops * 1e12 * utilisation)
    return Estimate(
        ranks=topology.ranks,
        devices_per_node=cluster.devices_per_node,
        replicas=topology.replicas,
        shards=topology.shards,
        accumulation=accumulation,
        parameters=parameters,
        states=fullest,
        start=4 * parameters,
        activations=worked,
        buffers=buffers,
        update=update,
        device_bytes=max(4 * parameters, training) + RESERVE,
        device_limit=round(cluster.device_memory * 1e9),
        saving=saving,
        host_bytes=fullest.host * cluster.devices_per_node + saving,
        host_limit=round(cluster.host_memory * 1e9),
        traffic=traffic(shapes, distributed, topology, cluster.devices_per_node, accumulation, width, directions),
        operations=operations,
        recomputed=again,
        seconds=seconds,
        run=run_schedule(settings, seconds, accumulation, topology.ranks, stored * parameters),
    )


def _backend(settings: config.Pretraining) -> str:
    """The attention backend on a GPU. Whether the operator will be available there cannot be known here."""
    if settings.attention.backend != "auto":
        return settings.attention.backend
    return "operator" if settings.model.hidden // settings.model.heads in HEAD_SIZES_ON_GPU else "blockwise"


def _recomputed(model: Transformer, settings: config.Distributed, pairs: int) -> float:
    counts, layers = flops.forward(model, pairs), model.settings.layers
    return (counts["linear"] + counts["attention"]) * len(recomputed_blocks(settings.recompute, layers)) / layers


def _buffers(shapes: dict[str, list[int]], settings: config.Distributed, topology: Topology, width: int) -> int:
    """Stage 3 gathers one layer at a time, and allocates its gradient at the same size."""
    if topology.shards == 1 or settings.stage < 3:
        return 0
    sliced = [size for size in map(prod, shapes.values()) if size > settings.segment_size]
    both = width + gradient_width(settings, width)
    return max((padded_to_shards(size, topology.shards, width) * both for size in sliced), default=0)


def _update(shapes: dict[str, list[int]], settings: config.Distributed, topology: Topology, width: int) -> int:
    """The gradient norm is computed in fp32, one parameter at a time. Replicas reduce gradients in buckets."""
    largest = max(map(prod, shapes.values()))
    in_buckets = topology.replicas > 1 and (topology.shards == 1 or settings.stage < 2)
    bucket = max(_BUCKET, largest * gradient_width(settings, width)) if in_buckets else 0
    if topology.shards > 1 and settings.stage == 3:
        if settings.offload:
            return 0
        largest = padded_to_shards(largest, topology.shards, width) // topology.shards
    return max(2 * 4 * largest, bucket)
