"""What a run minimizes: the seam between the one training loop and the kinds of training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paddle
from paddle import nn

from vilg.data.loader import Batch


class Objective(Protocol):
    """The loop asks these questions in this order, once a step or once a micro-batch."""

    model: nn.Layer
    throughput_unit: str  # what speed is counted in: tokens, images
    adversaries: dict[str, nn.Layer]  # models that are trained against `model`, each with an optimizer of its own

    def batches(self, consumed: int) -> Iterator[Batch]:
        """This rank's micro-batches behind the first `consumed` samples of the run."""

    def on_step_begin(self, step: int) -> None:
        """Called before the micro-batches of a step, counted from 1."""

    def prepare_batch(self, batch: Batch) -> Any:
        """What `losses` reads, computed without gradients; a dataclass whose fields can be dumped."""

    def loss_denominators(self, inputs: Any) -> dict[str, float]:
        """How many terms each loss of this micro-batch sums up, so that the mean is one over the whole step."""

    def throughput_units(self, inputs: Any) -> int:
        """How many `unit`s this micro-batch is."""

    def losses(self, inputs: Any, model: nn.Layer) -> Iterator[tuple[str, paddle.Tensor]]:
        """(name, summed loss), one after the other: the engine goes backward through each before it asks for the next,
        so that the activations of only one live at a time. `model` is what the engine has made of the objective's. The
        loss that trains a rival bears its name; without one the rival stays as it is in this step."""

    def weight(self, name: str) -> float:
        """The weight of a loss in the sum."""

    def on_step_end(self, step: int) -> dict[str, float]:
        """Called behind the optimizer's update; what it returns goes into metrics.jsonl."""

    def evaluate(self) -> dict[str, float]:
        """Metrics on the held-out data. Every rank calls it and gets the same."""

    def sample_images(self) -> dict[str, np.ndarray]:
        """Pictures for VisualDL, uint8 [H, W, 3]. Every rank calls it, for each may hold a part of the model."""

    def tokenizers(self) -> dict[str, str]:
        """The fingerprints of the tokenizers that the model learns from; a checkpoint of others is refused."""

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold besides the engine's state."""

    def load_state(self, state: dict[str, np.ndarray]) -> None: ...

    def on_train_end(self, folder: Path) -> None:
        """Called on rank 0 once all steps are done."""
