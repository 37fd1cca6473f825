"""Measures the effect of each setting of vilg/runtime.py on a training step (4 layers, hidden size 256, 4 heads).

python tools/measure_runtime.py
"""

import os
import subprocess
import sys

WITHOUT = {
    "all of them": {},
    "without threads": {"OMP_NUM_THREADS": "1"},
    "without the MKL path": {"MKL_DEBUG_CPU_TYPE": "0"},
    "without the allocator": {"MALLOC_CHECK_": "0"},  # any MALLOC_ variable disables our setting
    "without the transposition": {"FLAGS_use_stride_kernel": "1"},
}
WITHOUT["none of them"] = {name: value for change in WITHOUT.values() for name, value in change.items()}
STEPS = 10


def measure() -> None:
    """Print the tokens per second of both directions, in one process with batch 16. Runs in a child process."""
    import time
    from functools import partial

    import paddle

    import vilg  # noqa: F401
    from vilg import config
    from vilg.attention.patterns import DIRECTIONS
    from vilg.distributed.engine import Engine
    from vilg.distributed.world import World
    from vilg.model.loss import summed_nll
    from vilg.model.transformer import Transformer, targets
    from vilg.training.optimizer import adamw

    batch, length, grid, words, codes = 16, 20, (8, 8), 2083, 1024
    model = Transformer(config.Model(layers=4, hidden=256, heads=4), words, codes, length, grid)
    engine = Engine(World(), model, partial(adamw, config.Train()), 1.0)
    text, image = paddle.randint(0, words, [batch, length]), paddle.randint(0, codes, [batch, grid[0] * grid[1]])

    def losses(model):
        for direction in DIRECTIONS:
            yield direction, summed_nll(model(direction, text, image), *targets(direction, text, image, words))

    def step():
        engine.micro_step(losses, dict.fromkeys(DIRECTIONS, 1 / batch))
        engine.step(1e-3)

    for _ in range(3):
        step()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    print(STEPS * 2 * batch * (length + grid[0] * grid[1]) / (time.perf_counter() - began))


def main() -> None:
    settings = {name for change in WITHOUT.values() for name in change}
    clean = {name: value for name, value in os.environ.items() if name not in settings}
    speeds = {}
    for label, change in WITHOUT.items():
        process = subprocess.run(
            [sys.executable, __file__, "--measure"],
            env=clean | change,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        speeds[label] = float(process.stdout.splitlines()[-1])
    print("| settings | tokens per second | share |\n|---|---|---|")
    for label, speed in speeds.items():
        print(f"| {label} | {speed:,.0f} | {speed / speeds['all of them']:.2f} |")


if __name__ == "__main__":
    measure() if "--measure" in sys.argv else main()
