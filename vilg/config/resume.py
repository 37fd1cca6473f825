"""What a run continues from, and which changes it accepts when it does."""

from dataclasses import dataclass, field

from vilg.config.validation import require

# What `resume.allow` may contain; docs/checkpoints.md, Changed settings, says what each name allows.
ALLOWED = ("learning_rate", "optimizer", "global_batch", "losses", "run_dir", "metrics", "later_checkpoints")


@dataclass
class Resume:
    """The checkpoint that a run continues from. `resume=X` is short for `resume.checkpoint=X`."""

    checkpoint: str = "none"  # none | auto: the newest of the run | step:N: that of step N of the run | a path
    allow: list[str] = field(default_factory=list)  # changes that would be refused; see ALLOWED

    def __post_init__(self):
        if self.checkpoint.startswith("step:"):
            number = self.checkpoint.removeprefix("step:")
            require(
                number.isdecimal(), f"resume={self.checkpoint}: step: must be followed by a number, as in step:1200"
            )
        for name in self.allow:
            require(name in ALLOWED, f"resume.allow={name}: none of {', '.join(ALLOWED)}")

    @property
    def step(self) -> int | None:
        """N of `step:N`; None for other values."""
        return int(self.checkpoint.removeprefix("step:")) if self.checkpoint.startswith("step:") else None
