"""Batch, optimizer, schedule, loss weights and input noise."""

from dataclasses import dataclass, field

from vilg.config.batch_rampup import BatchRampup
from vilg.config.validation import require

SCHEDULES = ("cosine", "linear", "constant", "wsd")


@dataclass
class InputNoise:
    """Largest share of a sample's input tokens that are replaced by random ones; see vilg/training/input_noise.py."""

    target_image: float = 0.0  # image codes in text-to-image
    source_image: float = 0.0  # image codes in image-to-text
    target_text: float = 0.0  # text tokens in image-to-text

    def __post_init__(self):
        for name in ("target_image", "source_image", "target_text"):
            require(0 <= getattr(self, name) <= 1, f"input_noise.{name}={getattr(self, name)}: must be in [0, 1]")


@dataclass
class LossWeights:
    """Weights of the losses of the two directions, and what a loss is divided by; see docs/architecture.md, Loss."""

    text_to_image: float = 1.0  # 0: this direction is not trained
    image_to_text: float = 1.0
    # direction: the loss of each direction is a mean over its own target tokens | tokens: the paper's sum over the
    # target tokens of both directions, divided by their number
    normalization: str = "direction"
    z_loss: float = 0.0  # weight of the squared log of the softmax denominator; 0: none; see docs/stability.md

    def __post_init__(self):
        for name in ("text_to_image", "image_to_text"):
            require(0 <= getattr(self, name) < float("inf"), f"loss.{name}={getattr(self, name)}: must not be negative")
        require(bool(self.directions), "loss.text_to_image=0, loss.image_to_text=0: one of them must be positive")
        require(0 <= self.z_loss < float("inf"), f"loss.z_loss={self.z_loss}: must not be negative")
        choices = ("direction", "tokens")
        require(self.normalization in choices, f"loss.normalization={self.normalization}: none of {', '.join(choices)}")

    @property
    def directions(self) -> list[str]:
        """The directions that are trained, under their names in vilg/attention/patterns.py."""
        return [name for name in ("text_to_image", "image_to_text") if getattr(self, name) > 0]


@dataclass
class Train:
    """Number of steps, batch and optimizer. Accumulation is derived: global_batch / (micro_batch x ranks)."""

    steps: int = 1000
    global_batch: int = 32
    # [start, increment, samples]: the batch grows from `start` by `increment` to global_batch in the first `samples`
    # samples, as with Megatron's --rampup-batch-size; []: global_batch from the beginning
    rampup_batch_size: list[int] = field(default_factory=list)
    micro_batch: int = 16
    lr: float = 1e-4  # peak learning rate
    warmup: int = 100  # steps
    schedule: str = "cosine"  # after the warmup: cosine | linear | constant | wsd (constant, then a linear decay)
    decay_steps: int = 0  # wsd: steps of the decay at the end
    min_lr_ratio: float = 0.1  # learning rate at the end of the schedule (unless constant), as a share of `lr`
    weight_decay: float = 0.01  # of the weights of linear layers and convolutions
    decay_embeddings: bool = False  # also of embeddings, position tables and codebooks
    beta1: float = 0.9
    beta2: float = 0.99
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0  # gradients are clipped to this global norm; 0: no clipping
    caption_dropout: float = 0.0  # share of samples trained with an empty caption; needed for classifier-free guidance
    ema_decay: float = 0.0  # decay per step of the moving average of the weights; 0: no average
    freeze: list[str] = field(default_factory=list)  # patterns of parameter names that are not trained: ["blocks.0.*"]
    stop_at: int = 0  # stop after this step; the schedule is still that of `steps`; 0: never
    # Steps and/or minutes between evaluations on the held-out set, and between sample images in VisualDL; 0: never
    eval_every: int = 0
    eval_every_minutes: float = 0.0
    sample_images_every: int = 0
    sample_images_every_minutes: float = 0.0
    profile: list[int] = field(default_factory=list)  # [first, last] step of a trace in RUN/profile; []: none
    profile_ranks: list[int] = field(default_factory=lambda: [0])  # the ranks that write a trace
    on_spike: str = "stop"  # stop | skip | rollback: what follows a step that is not finite; see docs/reliability.md
    spike_threshold: float = 0.0  # also a loss or gradient norm this many deviations above its median; 0: never
    spike_window: int = 128  # steps of that median and deviation
    max_spikes: int = 20  # the run stops at the next one
    peak_tflops: float = 0.0  # peak of a device in TFLOP/s, for MFU; 0: that of known GPUs in 16 bits

    def __post_init__(self):
        for name in ("steps", "global_batch", "micro_batch"):
            require(getattr(self, name) > 0, f"train.{name}={getattr(self, name)}: must be positive")
        require(0 < self.lr < float("inf"), f"train.lr={self.lr}: must be positive")
        cadences = ("eval_every", "eval_every_minutes", "sample_images_every", "sample_images_every_minutes")
        not_negative = (
            "warmup",
            "min_lr_ratio",
            "weight_decay",
            "max_grad_norm",
            "stop_at",
            "peak_tflops",
            "decay_steps",
        )
        for name in (*not_negative, *cadences):
            require(getattr(self, name) >= 0, f"train.{name}={getattr(self, name)}: must not be negative")
        require(self.adam_epsilon > 0, f"train.adam_epsilon={self.adam_epsilon}: must be positive")
        for name in ("beta1", "beta2", "caption_dropout", "ema_decay"):
            require(0 <= getattr(self, name) < 1, f"train.{name}={getattr(self, name)}: must be in [0, 1)")
        for name in ("spike_threshold", "max_spikes"):
            require(getattr(self, name) >= 0, f"train.{name}={getattr(self, name)}: must not be negative")
        require(self.spike_window > 1, f"train.spike_window={self.spike_window}: must be at least 2")
        require(
            self.on_spike in ("stop", "skip", "rollback"),
            f"train.on_spike={self.on_spike}: none of stop, skip, rollback",
        )
        require(
            not self.profile or (len(self.profile) == 2 and 0 < self.profile[0] < self.profile[1]),
            f"train.profile={self.profile}: must be [first, last], two steps of which the first is smaller",
        )
        require(
            all(rank >= 0 for rank in self.profile_ranks),
            f"train.profile_ranks={self.profile_ranks}: must not be negative",
        )
        self._check_schedule()
        BatchRampup.parse(self.rampup_batch_size, self.global_batch)

    def _check_schedule(self) -> None:
        require(self.schedule in SCHEDULES, f"train.schedule={self.schedule}: none of {', '.join(SCHEDULES)}")
        require(
            (self.schedule == "wsd") == (self.decay_steps > 0),
            f"train.decay_steps={self.decay_steps}: must be positive with train.schedule=wsd, and 0 with others",
        )
        require(
            self.schedule != "wsd" or self.warmup + self.decay_steps <= self.steps,
            f"train.decay_steps={self.decay_steps}: more than the train.steps={self.steps} without the "
            f"train.warmup={self.warmup}",
        )

    @property
    def needs_heldout(self) -> bool:
        """Whether the run ever evaluates or generates sample images."""
        return bool(
            self.eval_every or self.eval_every_minutes or self.sample_images_every or self.sample_images_every_minutes
        )

    @property
    def rampup(self) -> BatchRampup:
        """The sizes of the global batch over a run."""
        return BatchRampup.parse(self.rampup_batch_size, self.global_batch)

    def accumulation(self, ranks: int, batch: int = 0) -> int:
        """Micro-batches that each rank computes in a step of `batch` samples, by default global_batch.

        Raises SettingsError unless every batch of the run is a multiple of micro_batch x ranks.
        """
        samples = self.micro_batch * ranks
        for size in reversed(self.rampup.sizes()):
            setting = "global_batch=" if size == self.global_batch else "rampup_batch_size: the batch "
            require(
                size % samples == 0,
                f"train.{setting}{size}: not a multiple of train.micro_batch={self.micro_batch} x {ranks} ranks",
            )
        return (batch or self.global_batch) // samples
