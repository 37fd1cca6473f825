"""What a run counts of its codes, and what it does for a codebook of nearest ones besides gradients."""

import numpy as np
import paddle

from vilg import config
from vilg.distributed.world import World
from vilg.image.ema_codebook import EMACodebook, sum_by_code
from vilg.image.quantizer import CodeUsage, NearestCode, count_codes
from vilg.image.tokenizer import ImageTokenizer
from vilg.training.seed import step_seed


class Codebook:
    """Usage and perplexity of every kind; revival and moving averages of nearest codes."""

    def __init__(self, settings: config.ImageTokenizerTraining, world: World, model: ImageTokenizer):
        self.settings, self.world = settings, world
        self.usage = CodeUsage(model.codebook_size, settings.dead_codes.threshold)
        quantizer = getattr(model, "quantizer", None)
        self.nearest = quantizer if isinstance(quantizer, NearestCode) else None
        uses_ema = self.nearest and settings.codebook.update == "ema"
        self.ema = EMACodebook(self.nearest, settings.codebook.decay) if uses_ema else None
        # Of each micro-batch of this step: the features, and what the averages need.
        self._features: list[paddle.Tensor] = []
        self._step: list[tuple[paddle.Tensor, paddle.Tensor]] = []

    def add(self, indices: paddle.Tensor, features: paddle.Tensor | None = None) -> None:
        """Note the codes [B, h, w] of a micro-batch; with nearest ones the features [B, h, w, d] that chose them."""
        chosen = self.world.sum_tensor(count_codes(indices, self.usage.counts.shape[0]))
        self.usage.add(chosen)
        if self.nearest:
            self._features.append(features.detach())
        if self.ema:
            self._step.append((chosen, sum_by_code(self._features[-1], indices, self.usage.counts.shape[0])))

    def initialize(self, codes: paddle.Tensor) -> None:
        """Nearest codes begin anew, as `codes` [codes, d]."""
        self.nearest.codebook.set_value(codes)
        if self.ema:
            self.ema.restart(paddle.arange(codes.shape[0]))

    def on_step_end(self, step: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if self._step:
            chosen, summed = (sum(part[1:], part[0]) for part in zip(*self._step, strict=True))
            self.ema.update(chosen, self.world.sum_tensor(summed))
            self._step = []
        rules = self.settings.dead_codes
        if step % rules.every == 0 and self.usage.counts.any():
            metrics |= {"codebook_used": self.usage.used(), "codebook_perplexity": self.usage.perplexity()}
            # Of less than a whole window, behind the first choice of an autoencoder, nearly all codes look dead.
            whole = step - rules.every + 1 >= self.settings.first_quantized_step
            if self.nearest and whole and step <= rules.until * self.settings.train.steps:
                metrics["codes_restarted"] = self._restart_dead_codes(step)
            self.usage.reset()
        self._features = []
        return metrics

    def _restart_dead_codes(self, step: int) -> int:
        """Every rank has the features of the whole batch and the same seed, so the codebooks stay equal."""
        features = self.world.interleave(paddle.concat(self._features).flatten(1, 2)).flatten(0, 1)  # [B h w, d]
        moved = self.usage.restart_dead_codes(self.nearest, features, step_seed(self.settings.run.seed, step, 0))
        if self.ema:
            self.ema.restart(moved)
        return moved.shape[0]

    def state(self) -> dict[str, np.ndarray]:
        state = {"code_counts": self.usage.counts}
        if self.ema:
            state |= {"average_counts": self.ema.counts, "average_sums": self.ema.sums}
        return {name: value.numpy() for name, value in state.items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.usage.counts = paddle.to_tensor(state["code_counts"])
        if self.ema:
            self.ema.counts, self.ema.sums = (
                paddle.to_tensor(state[name]) for name in ("average_counts", "average_sums")
            )
