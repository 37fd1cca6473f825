"""Statistics of code usage, restarts of dead codes, and EMA updates of the codebook during tokenizer training."""

import numpy as np
import paddle

from vilg import config
from vilg.arrays import to_numpy
from vilg.distributed.world import World
from vilg.image.ema_codebook import EMACodebook, sum_by_code
from vilg.image.quantizer import CodeUsage, NearestCode, count_codes
from vilg.image.tokenizer import ImageTokenizer
from vilg.training.seed import step_seed


class Codebook:
    """Usage and perplexity for all kinds of tokenizers; restarts and EMA updates for nearest-code quantizers."""

    def __init__(self, settings: config.ImageTokenizerTraining, world: World, model: ImageTokenizer):
        self.settings, self.world = settings, world
        self.usage = CodeUsage(model.codebook_size, settings.dead_codes.threshold)
        quantizer = getattr(model, "quantizer", None)
        self.nearest = quantizer if isinstance(quantizer, NearestCode) else None
        self.ema: EMACodebook | None = None
        if self.nearest and settings.codebook.update == "ema":
            self.ema = EMACodebook(self.nearest, settings.codebook.decay)
        # For each micro-batch of this step: the counts of codes, the features, and the sums for the EMA.
        self._counts: list[paddle.Tensor] = []
        self._features: list[paddle.Tensor] = []
        self._step: list[tuple[paddle.Tensor, paddle.Tensor]] = []

    def add(self, indices: paddle.Tensor, features: paddle.Tensor | None = None) -> None:
        """Count the codes [B, h, w] of a micro-batch. Nearest-code quantizers also pass the features [B, h, w, d]."""
        chosen = self.world.sum_tensor(count_codes(indices, self.usage.counts.shape[0]))
        self._counts.append(chosen)
        if self.nearest and features is not None:
            self._features.append(features.detach())
        if self.ema:
            self._step.append((chosen, sum_by_code(self._features[-1], indices, self.usage.counts.shape[0])))

    def initialize(self, codes: paddle.Tensor) -> None:
        """Replace the codebook of a nearest-code quantizer by `codes` [codes, d]."""
        assert self.nearest is not None, "only nearest codes have a codebook that can be replaced"
        self.nearest.codebook.set_value(codes)
        if self.ema:
            self.ema.restart(paddle.arange(codes.shape[0]))

    def on_step_end(self, step: int) -> dict[str, float]:
        """Apply EMA updates and restarts. Returns usage metrics at the end of each window."""
        metrics: dict[str, float] = {}
        for chosen in self._counts:
            self.usage.add(chosen)
        if self.ema and self._step:
            chosen, summed = (sum(part[1:], part[0]) for part in zip(*self._step, strict=True))
            self.ema.update(chosen, self.world.sum_tensor(summed))
        rules = self.settings.dead_codes
        if step % rules.every == 0 and self.usage.counts.any():
            metrics |= {"codebook_used": self.usage.used(), "codebook_perplexity": self.usage.perplexity()}
            # Skip a window that began before the first quantized step: nearly all codes would look dead.
            whole = step - rules.every + 1 >= self.settings.first_quantized_step
            if self.nearest and whole and step <= rules.until * self.settings.train.steps:
                metrics["codes_restarted"] = self._restart_dead_codes(self.nearest, step)
            self.usage.reset()
        self.discard_step()
        return metrics

    def discard_step(self) -> None:
        """Forget the micro-batches of this step."""
        self._counts, self._features, self._step = [], [], []

    def _restart_dead_codes(self, quantizer: NearestCode, step: int) -> int:
        """All ranks have the features of the whole batch and the same seed, so their codebooks stay equal."""
        features = self.world.interleave(paddle.concat(self._features).flatten(1, 2)).flatten(0, 1)  # [B h w, d]
        moved = self.usage.restart_dead_codes(quantizer, features, step_seed(self.settings.run.seed, step, 0))
        if self.ema:
            self.ema.restart(moved)
        return moved.shape[0]

    def state(self) -> dict[str, np.ndarray]:
        state = {"code_counts": self.usage.counts}
        if self.ema:
            state |= {"average_counts": self.ema.counts, "average_sums": self.ema.sums}
        return {name: to_numpy(value) for name, value in state.items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.usage.counts = paddle.to_tensor(state["code_counts"])
        if self.ema:
            self.ema.counts, self.ema.sums = (
                paddle.to_tensor(state[name]) for name in ("average_counts", "average_sums")
            )
