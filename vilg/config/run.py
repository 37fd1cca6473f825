"""Where a run is stored, and when and how its checkpoints are saved."""

from dataclasses import dataclass
from pathlib import Path

from vilg.config.validation import require


@dataclass
class Run:
    """The folder of a run, `dir/name`, and the seed from which all its random numbers are derived."""

    name: str = "run"
    dir: str = "runs"
    seed: int = 1

    def __post_init__(self):
        require(self.seed >= 0, f"run.seed={self.seed}: must not be negative")

    @property
    def folder(self) -> Path:
        return Path(self.dir) / self.name


@dataclass
class Checkpoint:
    """When a checkpoint is saved, which checkpoints are kept, and what a failed save does. The last step is always
    saved.
    """

    folder: str = ""  # a path or an fsspec URL; each run gets a subfolder named run.name. "": RUN/checkpoints
    initial_load_path: str = ""  # with resume=auto: where to start from while the run has no checkpoint of its own
    every_steps: int = 1000  # 0: not by steps
    every_minutes: float = 0.0  # 0: not by time
    keep_last: int = 3
    keep_every: int = 0  # checkpoints at multiples of this step are never removed; 0: none
    asynchronous: bool = True  # training continues while a copy of the states is written
    save_retries: int = 3  # further attempts after a save that failed, for example on a full disk
    save_backoff: float = 10.0  # seconds before the first of them; doubled each time. Training continues meanwhile
    on_failure: str = "stop"  # stop | continue, when all attempts have failed; older checkpoints stay in both cases

    def __post_init__(self):
        for name in ("every_steps", "every_minutes", "keep_every", "save_retries", "save_backoff"):
            require(getattr(self, name) >= 0, f"checkpoint.{name}={getattr(self, name)}: must not be negative")
        require(self.keep_last > 0, f"checkpoint.keep_last={self.keep_last}: must be positive")
        require(
            self.on_failure in ("stop", "continue"),
            f"checkpoint.on_failure={self.on_failure}: none of stop, continue",
        )

    def directory(self, run: Run) -> str:
        """The folder or URL that holds the checkpoints of `run`."""
        return f"{self.folder.rstrip('/')}/{run.name}" if self.folder else str(run.folder / "checkpoints")
