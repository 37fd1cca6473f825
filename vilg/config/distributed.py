"""Sharding, recompute, precision, and the machines of a job."""

from dataclasses import dataclass, field
from typing import Literal

from vilg.config.validation import require

# Precisions, and their types in Paddle.
DTYPES: dict[str, Literal["float32", "bfloat16", "float16"]] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
MASTER_PORTS = 16  # that the attempts of a job use in turn


@dataclass
class Distributed:
    """Sharding of the model states; see vilg/distributed/stages.py and topology.py."""

    stage: int = 0  # 0: data parallel; 1: shards optimizer states, 2: also gradients, 3: also parameters
    sharding_degree: int = 0  # ranks of a node that shard the states; 0: all ranks of a node
    offload: bool = False  # stage 3 only: optimizer states are in host memory, and are updated there
    recompute: str = "none"  # none | block | n: recompute the activations of every n-th block
    precision: str = "auto"  # fp32 | bf16 | fp16 | auto: bf16 on a GPU, on a CPU what is faster there
    amp_master_grad: bool = True  # with 16 bits: gradients are accumulated and reduced in fp32
    segment_size: int = 2**20  # stage 3: smaller parameters are replicated

    def __post_init__(self):
        require(self.stage in (0, 1, 2, 3), f"distributed.stage={self.stage}: none of 0, 1, 2, 3")
        require(self.sharding_degree >= 0, f"distributed.sharding_degree={self.sharding_degree}: must not be negative")
        require(
            self.stage > 0 or self.sharding_degree <= 1,
            f"distributed.sharding_degree={self.sharding_degree}: stage 0 has no shards",
        )
        require(
            not self.offload or self.stage == 3,
            "distributed.offload=true: requires stage 3. Paddle's stage 2 with offload updates all parameters as "
            "one tensor, applies weight decay to biases, and does not support replicas",
        )
        require(
            self.recompute in ("none", "block") or (self.recompute.isdigit() and int(self.recompute) > 0),
            f"distributed.recompute={self.recompute}: none of none, block, or a number of blocks",
        )
        require(
            self.precision in ("auto", *DTYPES),
            f"distributed.precision={self.precision}: none of auto, {', '.join(DTYPES)}",
        )
        require(self.segment_size >= 0, f"distributed.segment_size={self.segment_size}: must not be negative")


@dataclass
class Cluster:
    """The machines of a job, and how the launcher reacts to failures; see docs/launch.md."""

    nodes: int = 0  # 0: the number of hosts
    devices_per_node: int = 8
    master_port: int = 36767  # on the first node; restarts use the ports above it in turn
    environment: dict[str, str] = field(
        default_factory=dict
    )  # environment variables of every process, for example NCCL's
    max_restarts: int = 10  # the launcher gives up after this many failures
    backoff: float = 10.0  # seconds before the first restart; doubled each time, up to a factor of 16
    grace_period: int = 120  # seconds between SIGTERM and SIGKILL, in which a run stops and saves
    stall_timeout: float = 1800.0  # seconds without a step after which a run counts as stalled
    device_memory: float = 80.0  # GB (10^9 bytes) of a device, for `vilg plan`
    host_memory: float = 1000.0  # GB of a node
    device_tflops: float = 312.0  # peak of a device in the training precision; an A100 has 312 in 16 bits, dense
    storage_speed: float = 0.0  # GB/s at which all nodes together write a checkpoint, for `vilg plan`; 0: not known
    device_hour_price: float = 0.0  # of one device, in any currency, for `vilg plan`; 0: not known

    def __post_init__(self):
        require(self.nodes >= 0, f"cluster.nodes={self.nodes}: must not be negative")
        require(self.devices_per_node > 0, f"cluster.devices_per_node={self.devices_per_node}: must be positive")
        require(
            0 < self.master_port <= 65536 - MASTER_PORTS,
            f"cluster.master_port={self.master_port}: must be a port, at most {65536 - MASTER_PORTS}, because restarts "
            f"use the {MASTER_PORTS - 1} ports above it",
        )
        require(self.max_restarts >= 0, f"cluster.max_restarts={self.max_restarts}: must not be negative")
        require(self.backoff >= 0, f"cluster.backoff={self.backoff}: must not be negative")
        for name in ("storage_speed", "device_hour_price"):
            require(getattr(self, name) >= 0, f"cluster.{name}={getattr(self, name)}: must not be negative")
        for name in ("grace_period", "stall_timeout", "device_memory", "host_memory", "device_tflops"):
            require(getattr(self, name) > 0, f"cluster.{name}={getattr(self, name)}: must be positive")

    def port_of(self, attempt: int) -> int:
        """The port of the master in an attempt, counted from 0. The previous one may still be in use."""
        return self.master_port + attempt % MASTER_PORTS
