"""Typed settings: the only home of a default.

A run is described by one YAML file (`-c fleet_configs/x.yaml`) and `key=value` overrides; `resolve` merges both over
the dataclasses below and checks the result. The whole resolved tree is saved beside every run.
"""

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from vilg.config.check import require
from vilg.config.image_tokenizers import DVAE, VQGAN, VQVAE
from vilg.config.token_shards import Tokenize
from vilg.config.tokenizer_training import (
    Autoencoder,
    Codebook,
    DeadCodes,
    Discriminator,
    Likelihood,
    Perceptual,
    Pixels,
    Relaxation,
    Residual,
)
from vilg.errors import SettingsError

__all__ = [
    "DVAE",
    "VQGAN",
    "VQVAE",
    "Autoencoder",
    "Codebook",
    "DeadCodes",
    "Discriminator",
    "Likelihood",
    "Perceptual",
    "Pixels",
    "Relaxation",
    "Residual",
    "Tokenize",
    "require",
]

LONGEST_TEXT = 256  # text positions, as in DALL-E


@dataclass
class Run:
    """Where a run lives (`dir/name`) and the seed that everything random in it comes from."""

    name: str = "run"
    dir: str = "runs"
    seed: int = 1

    def __post_init__(self):
        require(self.seed >= 0, f"run.seed={self.seed}: must not be negative")

    @property
    def folder(self) -> Path:
        return Path(self.dir) / self.name


@dataclass
class Data:
    """webdataset shards, how a picture is cut out of them, and token shards made of them."""

    shards: list[str] = field(default_factory=list)  # paths and globs
    tokens: list[str] = field(default_factory=list)  # folders and globs; where there are any, pre-training reads these
    heldout: list[str] = field(default_factory=list)  # never trained on; measured every `train.measure_every` steps
    image_size: int = 256
    crop_jitter: float = 0.0  # largest share of the shorter side that a random crop leaves out; 0: the centre crop
    max_faults: int = 100  # broken samples that a process skips before it stops
    threads: int = 2  # readers per process
    may_change: bool = False  # go on from a checkpoint that was trained on other shards, in another order of samples

    def __post_init__(self):
        require(self.image_size > 0, f"data.image_size={self.image_size}: must be positive")
        require(0 <= self.crop_jitter < 1, f"data.crop_jitter={self.crop_jitter}: must be in [0, 1)")
        require(self.max_faults >= 0, f"data.max_faults={self.max_faults}: must not be negative")
        require(self.threads > 0, f"data.threads={self.threads}: must be positive")


@dataclass
class Text:
    """The text tokenizer: `wordpiece` reads vocab.txt itself, any other name is a tokenizer class of PaddleNLP."""

    tokenizer: str = "wordpiece"
    vocab: str = "vocab.txt"  # a file; for PaddleNLP also a folder or a model's name
    length: int = 64  # T, with [BOT], [EOT] and [BOI]

    def __post_init__(self):
        require(4 <= self.length <= LONGEST_TEXT, f"text.length={self.length}: must be between 4 and {LONGEST_TEXT}")


@dataclass
class ImageTokenizer:
    path: str = "image_tokenizer"  # a folder that `vilg.image.load` reads


@dataclass
class Model:
    """The shared transformer (section 3.1.2 of the paper); the defaults are its 10 billion parameters."""

    layers: int = 48
    hidden: int = 4096
    heads: int = 64
    conv_kernel: int = 11
    dropout: float = 0.0
    sandwich_norm: bool = False
    qk_norm: bool = False

    def __post_init__(self):
        for name in ("layers", "hidden", "heads", "conv_kernel"):
            require(getattr(self, name) > 0, f"model.{name}={getattr(self, name)}: must be positive")
        require(self.hidden % self.heads == 0, f"model.heads={self.heads}: must divide model.hidden={self.hidden}")
        require(self.conv_kernel % 2 == 1, f"model.conv_kernel={self.conv_kernel}: must be odd")
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout}: must be in [0, 1)")


@dataclass
class Attention:
    """How attention is computed; see vilg/attention/functional.py."""

    backend: str = "auto"  # operator | blockwise | dense | auto: the first of these that there is

    def __post_init__(self):
        known = ("auto", "operator", "blockwise", "dense")
        require(self.backend in known, f"attention.backend={self.backend}: none of {', '.join(known)}")


@dataclass
class Noise:
    """Largest share of a sample's tokens that the model reads wrongly while it trains; see vilg/training/noise.py."""

    drawn: float = 0.0  # of the codes it draws
    seen: float = 0.0  # of the codes it describes
    written: float = 0.0  # of the words it writes

    def __post_init__(self):
        for name in ("drawn", "seen", "written"):
            require(0 <= getattr(self, name) <= 1, f"noise.{name}={getattr(self, name)}: must be in [0, 1]")


@dataclass
class LossWeights:
    text_to_image: float = 1.0
    image_to_text: float = 1.0

    def __post_init__(self):
        for name in ("text_to_image", "image_to_text"):
            require(0 <= getattr(self, name) < float("inf"), f"loss.{name}={getattr(self, name)}: must not be negative")


@dataclass
class Train:
    """Length, batch and optimizer. Accumulation is derived: global_batch / (micro_batch x ranks)."""

    steps: int = 1000
    global_batch: int = 32
    micro_batch: int = 16
    lr: float = 1e-4  # the peak
    warmup: int = 100  # steps
    final_lr: float = 0.1  # the end of the cosine, as a share of `lr`
    weight_decay: float = 0.01  # matrices only
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0  # global norm of the gradient; 0: none
    drop_caption: float = 0.0  # share of the samples drawn from an empty caption; classifier-free guidance needs some
    stop_at: int = 0  # end after this step as if the time were over; the schedule stays that of `steps`; 0: never
    measure_every: int = 0  # steps between looks at the held-out set; 0: never
    draw_every: int = 0  # steps between sample pictures in VisualDL; 0: never

    def __post_init__(self):
        for name in ("steps", "global_batch", "micro_batch"):
            require(getattr(self, name) > 0, f"train.{name}={getattr(self, name)}: must be positive")
        require(0 < self.lr < float("inf"), f"train.lr={self.lr}: must be positive")
        for name in ("warmup", "final_lr", "weight_decay", "clip", "stop_at", "measure_every", "draw_every"):
            require(getattr(self, name) >= 0, f"train.{name}={getattr(self, name)}: must not be negative")
        for name in ("beta1", "beta2", "drop_caption"):
            require(0 <= getattr(self, name) < 1, f"train.{name}={getattr(self, name)}: must be in [0, 1)")

    def accumulation(self, ranks: int) -> int:
        """Micro-batches a rank computes for one step."""
        share = self.micro_batch * ranks
        require(
            self.global_batch % share == 0,
            f"train.global_batch={self.global_batch}: not a multiple of "
            f"train.micro_batch={self.micro_batch} x {ranks} ranks",
        )
        return self.global_batch // share


@dataclass
class Checkpoint:
    """When the run is saved, what is kept, and what a failure means. The last step is always saved."""

    folder: str = ""  # a path, or a URL that fsspec knows, in which RUN has a folder of its own; "": RUN/checkpoints
    every_steps: int = 1000  # 0: not by steps
    every_minutes: float = 0.0  # 0: not by the clock
    keep_last: int = 3
    keep_every: int = 0  # steps; a checkpoint of a multiple stays for good; 0: none
    asynchronous: bool = True  # the training goes on while a copy of the states is written
    on_failure: str = "stop"  # stop | continue; either way the older checkpoints stay as they are

    def __post_init__(self):
        for name in ("every_steps", "every_minutes", "keep_every"):
            require(getattr(self, name) >= 0, f"checkpoint.{name}={getattr(self, name)}: must not be negative")
        require(self.keep_last > 0, f"checkpoint.keep_last={self.keep_last}: must be positive")
        require(
            self.on_failure in ("stop", "continue"), f"checkpoint.on_failure={self.on_failure}: none of stop, continue"
        )

    def place(self, run: Run) -> str:
        """Where the checkpoints of a run lie."""
        return f"{self.folder.rstrip('/')}/{run.name}" if self.folder else str(run.folder / "checkpoints")


@dataclass
class Distributed:
    """How the states of the model are shared out; see vilg/distributed/stages.py and topology.py."""

    stage: int = 0  # 0 plain data parallel; 1 optimizer states, 2 and gradients, 3 and parameters are split
    sharding_degree: int = 0  # ranks of a node that split them; 0: all of a node
    offload: bool = False  # stage 3: optimizer states and its share of the parameters live in the host's memory
    recompute: str = "none"  # none | block | n: every n-th block's activations are computed again
    precision: str = "auto"  # auto (bf16 on a GPU, fp32 on a CPU) | fp32 | bf16 | fp16
    segment_size: int = 2**20  # stage 3: smaller parameters stay whole

    def __post_init__(self):
        require(self.stage in (0, 1, 2, 3), f"distributed.stage={self.stage}: none of 0, 1, 2, 3")
        require(self.sharding_degree >= 0, f"distributed.sharding_degree={self.sharding_degree}: must not be negative")
        require(
            self.stage > 0 or self.sharding_degree <= 1,
            f"distributed.sharding_degree={self.sharding_degree}: stage 0 splits nothing",
        )
        require(
            not self.offload or self.stage == 3,
            "distributed.offload=true: only with stage 3; Paddle's stage 2 with offload updates all parameters as "
            "one, decays biases like matrices, and knows no replicas",
        )
        require(
            self.recompute in ("none", "block") or (self.recompute.isdigit() and int(self.recompute) > 0),
            f"distributed.recompute={self.recompute}: none of none, block, or a number of blocks",
        )
        require(
            self.precision in ("auto", "fp32", "bf16", "fp16"),
            f"distributed.precision={self.precision}: none of auto, fp32, bf16, fp16",
        )
        require(self.segment_size >= 0, f"distributed.segment_size={self.segment_size}: must not be negative")


@dataclass
class Cluster:
    """The machines of a job, and what the launcher does when something goes wrong; see docs/launch.md."""

    nodes: int = 0  # 0: as many as hosts are named
    devices_per_node: int = 8
    master_port: int = 36767  # on the first node
    environment: dict[str, str] = field(default_factory=dict)  # of every process, such as NCCL's settings
    restarts: int = 10  # after so many crashes the launcher gives up
    backoff: float = 10.0  # seconds before the first restart; doubled with each, up to 16 times
    stall_timeout: float = 1800.0  # seconds without a step after which a run counts as hanging
    device_memory: float = 80.0  # GB of 10^9 bytes, as `vilg plan` compares them
    host_memory: float = 1000.0  # GB of a node
    device_tflops: float = 312.0  # of a device in the numbers it computes with; an A100 has 312 in 16 bits, dense

    def __post_init__(self):
        require(self.nodes >= 0, f"cluster.nodes={self.nodes}: must not be negative")
        require(self.devices_per_node > 0, f"cluster.devices_per_node={self.devices_per_node}: must be positive")
        require(0 < self.master_port < 65536, f"cluster.master_port={self.master_port}: must be a port")
        require(self.restarts >= 0, f"cluster.restarts={self.restarts}: must not be negative")
        require(self.backoff >= 0, f"cluster.backoff={self.backoff}: must not be negative")
        for name in ("stall_timeout", "device_memory", "host_memory", "device_tflops"):
            require(getattr(self, name) > 0, f"cluster.{name}={getattr(self, name)}: must be positive")


@dataclass
class Pretraining:
    """Everything that `vilg pretrain` and `vilg data tokenize` are told."""

    run: Run = field(default_factory=Run)
    data: Data = field(default_factory=Data)
    text: Text = field(default_factory=Text)
    image_tokenizer: ImageTokenizer = field(default_factory=ImageTokenizer)
    tokenize: Tokenize = field(default_factory=Tokenize)
    model: Model = field(default_factory=Model)
    attention: Attention = field(default_factory=Attention)
    noise: Noise = field(default_factory=Noise)
    loss: LossWeights = field(default_factory=LossWeights)
    train: Train = field(default_factory=Train)
    distributed: Distributed = field(default_factory=Distributed)
    cluster: Cluster = field(default_factory=Cluster)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    resume: str = "none"  # none | auto | the path of a checkpoint


@dataclass
class ImageTokenizerTraining:
    """Everything that `vilg train-image-tokenizer` is told."""

    kind: str = "vqvae"  # vqvae | vqgan | dvae; the section of this name has its sizes
    run: Run = field(default_factory=Run)
    data: Data = field(default_factory=Data)
    vqvae: VQVAE = field(default_factory=VQVAE)
    vqgan: VQGAN = field(default_factory=VQGAN)
    dvae: DVAE = field(default_factory=DVAE)
    codebook: Codebook = field(default_factory=Codebook)
    dead_codes: DeadCodes = field(default_factory=DeadCodes)
    residual: Residual = field(default_factory=Residual)
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    relaxation: Relaxation = field(default_factory=Relaxation)
    likelihood: Likelihood = field(default_factory=Likelihood)
    pixels: Pixels = field(default_factory=Pixels)
    perceptual: Perceptual = field(default_factory=Perceptual)
    discriminator: Discriminator = field(default_factory=Discriminator)
    train: Train = field(default_factory=Train)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    resume: str = "none"

    def __post_init__(self):
        require(not self.data.tokens, "data.tokens: an image tokenizer learns from the images of data.shards")
        require(self.kind in ("vqvae", "vqgan", "dvae"), f"kind={self.kind}: none of vqvae, vqgan, dvae")

    @property
    def first_choice(self) -> int:
        """The first step in which codes are chosen; before it the run is an autoencoder."""
        return 1 + int(self.autoencoder.until * self.train.steps)


def resolve(schema: type, file: str | Path | None = None, overrides: list[str] = ()) -> Any:
    """The settings of `schema` with the YAML file and then the `key=value` overrides laid over its defaults.

    Raises SettingsError, one line long, for a missing or broken file, an unknown key (with the nearest known one), a
    value of the wrong type, or a value that a dataclass refuses.
    """
    merged = OmegaConf.structured(schema)
    if file is not None:
        merged = _merge(schema, merged, _read_yaml(Path(file)), str(file))
    for override in overrides:
        merged = _merge(schema, merged, _read_override(override), override)
    try:
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:  # an interpolation of what is not there
        raise SettingsError(f"{error.full_key}: {str(error.msg or error).splitlines()[0]}") from None


def from_tree(schema: type, tree: dict, origin: str) -> Any:
    """Settings from a plain tree that `as_tree` made; `origin` names it in errors."""
    return OmegaConf.to_object(_merge(schema, OmegaConf.structured(schema), OmegaConf.create(tree), origin))


def as_tree(settings: Any) -> dict:
    """A plain tree of dicts, lists and scalars: what goes into JSON and YAML."""
    return dataclasses.asdict(settings)


def save(settings: Any, file: Path) -> None:
    """Write the whole resolved tree as YAML, which `resolve` reads back to equal settings."""
    file.write_text(OmegaConf.to_yaml(OmegaConf.structured(settings)), "utf-8")


def _read_yaml(file: Path) -> DictConfig:
    try:
        tree = OmegaConf.load(file)
    except FileNotFoundError:
        raise SettingsError(f"{file}: no such file") from None
    except Exception as error:  # a YAML error has many classes, and its message many lines
        raise SettingsError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from None
    require(isinstance(tree, DictConfig), f"{file}: a settings file holds `section: {{key: value}}`")
    return tree


def _read_override(override: str) -> DictConfig:
    key, equals, _ = override.partition("=")
    require(bool(equals and key), f"{override}: an override is written key=value")
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:
        raise SettingsError(f"{override}: {' '.join(str(error).split())}") from None


def _merge(schema: type, base: DictConfig, tree: DictConfig, origin: str) -> DictConfig:
    try:
        return OmegaConf.merge(base, tree)
    except ConfigKeyError as error:
        raise SettingsError(f"{origin}: unknown key {error.full_key}{_nearest(schema, error.full_key)}") from None
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        key = error.full_key or ", ".join(map(str, tree))  # a section given a scalar has no full key
        raise SettingsError(f"{origin}: {key}: {reason}") from None


def _nearest(schema: type, key: str) -> str:
    near = difflib.get_close_matches(key, known_keys(schema), 1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Every dotted key of `schema`, sections included."""
    keys = []
    for entry in dataclasses.fields(schema):
        keys.append(prefix + entry.name)
        if dataclasses.is_dataclass(entry.type):
            keys += known_keys(entry.type, f"{prefix}{entry.name}.")
    return keys
