"""The z-loss in metrics.jsonl."""

import paddle

from vilg.distributed.world import World


class ZLossMetric:
    """Averages the z-losses of a step over its target tokens, all micro-batches and all ranks."""

    def __init__(self):
        self._sums: dict[str, float] = {}

    def add(self, name: str, summed: paddle.Tensor, counted: paddle.Tensor) -> None:
        """Add the summed z-loss of a micro-batch, whose target tokens are those where `counted` holds."""
        for part, value in (("sum", float(summed)), ("count", float(counted.sum()))):
            self._sums[f"{part}/{name}"] = self._sums.get(f"{part}/{name}", 0.0) + value

    def means(self, world: World) -> dict[str, float]:
        """{z_loss_NAME: mean of log(Z)^2} of the step that ends. All ranks call this."""
        sums, self._sums = world.sum(self._sums), {}
        names = [name.partition("/")[2] for name in sums if name.startswith("sum/")]
        return {f"z_loss_{name}": sums[f"sum/{name}"] / sums[f"count/{name}"] for name in names}
