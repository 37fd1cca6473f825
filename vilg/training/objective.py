"""The interface between the training loop and what is trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paddle
from paddle import nn

from vilg.data.loader import Batch, BatchStream


class Objective(Protocol):
    """What a run minimizes. The loop calls these methods in this order, once a step or once a micro-batch."""

    throughput_unit: str  # unit of the reported speed: tokens or images
    adversaries: dict[str, nn.Layer]  # adversarial models, each with its own optimizer

    @property
    def model(self) -> nn.Layer:
        """The model that is trained."""
        ...

    def batches(self, consumed: int) -> BatchStream:
        """The micro-batches of this rank after the first `consumed` samples of the run."""
        ...

    def flops_per_sample(self) -> float:
        """Floating-point operations of the matrix products of training on one sample, without recompute. 0 if they are
        not counted for this model.
        """
        ...

    def on_step_begin(self, step: int) -> None:
        """Called before the micro-batches of a step. Steps count from 1."""

    def prepare_batch(self, batch: Batch) -> Any:
        """The inputs of `losses`, computed without gradients: a dataclass whose fields can be written to a file."""
        ...

    def loss_denominators(self, inputs: Any) -> dict[str, float]:
        """The number of terms in each summed loss of this micro-batch. Means are taken over the whole step."""
        ...

    def throughput_units(self, inputs: Any) -> int:
        """The number of units (see `throughput_unit`) in this micro-batch."""
        ...

    def losses(self, inputs: Any, model: Any) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield (name, summed loss) one at a time.

        The engine backpropagates each loss before it asks for the next, so that only the activations of one are in
        memory. `model` is the wrapped model of the engine. The loss of an adversarial model has the name of that model;
        in a step without it the adversarial model is not updated.
        """
        ...

    def weights(self, counts: dict[str, float]) -> dict[str, float]:
        """The weight of each mean loss in the sum. counts: the numbers of terms of this step on all ranks."""
        ...

    def on_step_end(self, step: int) -> dict[str, float]:
        """Called after the optimizer update. The returned values are added to metrics.jsonl."""
        ...

    def discard_step(self) -> None:
        """Called instead of `on_step_end` if the optimizer makes no update with the micro-batches of this step."""

    def evaluate(self) -> dict[str, float]:
        """Metrics on the held-out data. All ranks call it and get equal results."""
        ...

    def sample_images(self) -> dict[str, np.ndarray]:
        """Images for VisualDL, uint8 [H, W, 3]. All ranks call it, since each may hold a shard of the model."""
        ...

    def tokenizers(self) -> dict[str, str]:
        """Fingerprints of the tokenizers that the model depends on. A checkpoint with other fingerprints is refused."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint has to store in addition to the engine's state."""
        ...

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Load what `state` returned."""

    def on_train_end(self, folder: Path) -> None:
        """Called on rank 0 after the last step."""
