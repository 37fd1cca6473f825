"""The objective of a VQ-VAE: equation (2) of the paper, and the care of its codebook."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from vilg import config
from vilg.data.loader import Batch, heldout_samples, training_batches
from vilg.data.pixels import to_unit
from vilg.distributed.world import World
from vilg.evaluation.psnr import mean_psnr
from vilg.generation.contact_sheet import contact_sheet
from vilg.image.quantizer import CodeUsage
from vilg.image.vqvae import VQVAE
from vilg.training.seed import step_seed

OUTPUT = "image_tokenizer"  # the folder of a finished run that `vilg.image.load` reads
_DRAWN = 16  # held-out images shown in VisualDL


@dataclass(frozen=True)
class Inputs:
    """A micro-batch of images [B, 3, H, W] in [0, 1]."""

    names: list[str]
    images: paddle.Tensor


class ImageTokenizerTraining:
    """Trains a VQ-VAE on the images of the shards."""

    unit = "images"

    def __init__(self, settings: config.ImageTokenizerTraining, world: World):
        self.settings, self.world = settings, world
        paddle.seed(settings.run.seed)
        self.model = VQVAE(settings.vqvae)
        self.model.grid(settings.data.image_size)  # refuses a size that the codes do not divide
        self.usage = CodeUsage(settings.vqvae.codes, settings.dead_codes.threshold)
        self._parts: dict[str, paddle.Tensor] = {}
        self._features: paddle.Tensor | None = None
        self.heldout = self._read_heldout() if settings.train.measure_every or settings.train.draw_every else None

    def batches(self, consumed: int) -> Iterator[Batch]:
        return training_batches(self.settings.data, self.settings.run.seed, self.settings.train.micro_batch,
                                self.world.rank, self.world.ranks, consumed)

    def prepare(self, batch: Batch) -> Inputs:
        return Inputs(batch.names, paddle.to_tensor(batch.images))

    def counts(self, inputs: Inputs) -> dict[str, float]:
        return {"vqvae": float(len(inputs.names))}

    def units(self, inputs: Inputs) -> int:
        return len(inputs.names)

    def losses(self, inputs: Inputs, model: VQVAE) -> Iterator[tuple[str, paddle.Tensor]]:
        loss, self._parts, features, indices = model.losses(inputs.images)
        self._features = features.detach()
        chosen = paddle.bincount(indices.flatten(), minlength=self.model.vocabulary)
        self.usage.add(self.world.sum_tensor(chosen))
        yield "vqvae", loss * len(inputs.names)

    def weight(self, name: str) -> float:
        return 1.0

    def after_update(self, step: int) -> dict[str, float]:
        metrics = {name: float(value) for name, value in self._parts.items()}  # of this rank's last micro-batch
        rules = self.settings.dead_codes
        if step % rules.every == 0:
            metrics |= {"codebook_used": self.usage.used(), "codebook_perplexity": self.usage.perplexity()}
            if step <= rules.until * self.settings.train.steps:
                metrics["codes_revived"] = self._revive(step)
            self.usage.reset()
        return metrics

    def _revive(self, step: int) -> int:
        """Every rank has the same features and the same seed, so the codebooks stay equal."""
        features = self.world.interleave(self._features.flatten(1, 2)).flatten(0, 1)  # [B h w, d]
        return self.usage.revive(self.model.quantizer, features, step_seed(self.settings.run.seed, step, 0))

    def measure(self) -> dict[str, float]:
        """PSNR over the held-out images, computed alike on every rank."""
        return {"heldout_psnr": mean_psnr(self.heldout, reconstruct(self.model, self.heldout))}

    def draw(self) -> dict[str, np.ndarray]:
        images = self.heldout[:_DRAWN]
        rows = np.concatenate([images, reconstruct(self.model, images)])
        return {"heldout": contact_sheet(rows, columns=_DRAWN)}

    def _read_heldout(self) -> np.ndarray:
        """The held-out images [N, 3, H, W] in [0, 1]."""
        samples = heldout_samples(self.settings.data, captions=False)
        return to_unit(np.stack([sample.image for sample, _ in samples]))

    def tokenizers(self) -> dict[str, str]:
        return {}

    def state(self) -> dict[str, np.ndarray]:
        return {"code_counts": self.usage.counts.numpy()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.usage.counts = paddle.to_tensor(state["code_counts"])

    def finish(self, folder: Path) -> None:
        self.model.save(folder / OUTPUT)


@paddle.no_grad()
def reconstruct(tokenizer, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Images [N, 3, H, W] in [0, 1] -> what comes back from their codes."""
    parts = [tokenizer.decode(tokenizer.encode(paddle.to_tensor(images[start : start + batch]))).numpy()
             for start in range(0, len(images), batch)]
    return np.concatenate(parts)
