"""What a run counts of its codes, and what it does for a codebook of nearest ones besides gradients."""

import numpy as np
import paddle

from vilg import config
from vilg.distributed.world import World
from vilg.image.moving_average import MovingAverage, summed_by_code
from vilg.image.quantizer import CodeUsage, NearestCode, times_chosen
from vilg.image.tokenizer import ImageTokenizer
from vilg.training.seed import step_seed


class Codebook:
    """Usage and perplexity of every kind; revival and moving averages of nearest codes."""

    def __init__(self, settings: config.ImageTokenizerTraining, world: World, model: ImageTokenizer):
        self.settings, self.world = settings, world
        self.usage = CodeUsage(model.vocabulary, settings.dead_codes.threshold)
        quantizer = getattr(model, "quantizer", None)
        self.nearest = quantizer if isinstance(quantizer, NearestCode) else None
        averaged = self.nearest and settings.codebook.update == "average"
        self.average = MovingAverage(self.nearest, settings.codebook.decay) if averaged else None
        # Of each micro-batch of this step: the features, and what the averages need.
        self._features: list[paddle.Tensor] = []
        self._step: list[tuple[paddle.Tensor, paddle.Tensor]] = []

    def add(self, indices: paddle.Tensor, features: paddle.Tensor | None = None) -> None:
        """Note the codes [B, h, w] of a micro-batch; with nearest ones the features [B, h, w, d] that chose them."""
        chosen = self.world.sum_tensor(times_chosen(indices, self.usage.counts.shape[0]))
        self.usage.add(chosen)
        if self.nearest:
            self._features.append(features.detach())
        if self.average:
            self._step.append((chosen, summed_by_code(self._features[-1], indices, self.usage.counts.shape[0])))

    def begin(self, codes: paddle.Tensor) -> None:
        """Nearest codes begin anew, as `codes` [codes, d]."""
        self.nearest.codebook.set_value(codes)
        if self.average:
            self.average.restart(paddle.arange(codes.shape[0]))

    def after_update(self, step: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if self._step:
            chosen, summed = (sum(part[1:], part[0]) for part in zip(*self._step, strict=True))
            self.average.update(chosen, self.world.sum_tensor(summed))
            self._step = []
        rules = self.settings.dead_codes
        if step % rules.every == 0 and self.usage.counts.any():
            metrics |= {"codebook_used": self.usage.used(), "codebook_perplexity": self.usage.perplexity()}
            # Of less than a whole window, behind the first choice of an autoencoder, nearly all codes look dead.
            whole = step - rules.every + 1 >= self.settings.first_choice
            if self.nearest and whole and step <= rules.until * self.settings.train.steps:
                metrics["codes_revived"] = self._revive(step)
            self.usage.reset()
        self._features = []
        return metrics

    def _revive(self, step: int) -> int:
        """Every rank has the features of the whole batch and the same seed, so the codebooks stay equal."""
        features = self.world.interleave(paddle.concat(self._features).flatten(1, 2)).flatten(0, 1)  # [B h w, d]
        moved = self.usage.revive(self.nearest, features, step_seed(self.settings.run.seed, step, 0))
        if self.average:
            self.average.restart(moved)
        return moved.shape[0]

    def state(self) -> dict[str, np.ndarray]:
        state = {"code_counts": self.usage.counts}
        if self.average:
            state |= {"average_counts": self.average.counts, "average_sums": self.average.sums}
        return {name: value.numpy() for name, value in state.items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.usage.counts = paddle.to_tensor(state["code_counts"])
        if self.average:
            self.average.counts, self.average.sums = (
                paddle.to_tensor(state[name]) for name in ("average_counts", "average_sums")
            )
