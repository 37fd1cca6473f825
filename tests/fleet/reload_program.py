"""Loads what `resume` names as a training run does, and saves it again at once, by the job that this is.

    reload_program.py OUT_FOLDER key=value ..
"""

import sys
from pathlib import Path

import vilg  # noqa: F401
from vilg import config
from vilg.checkpoint import Saver
from vilg.distributed.world import World
from vilg.training.loop import Loop
from vilg.training.pretraining import Pretraining


def main(out: Path, overrides: list[str]) -> None:
    settings = config.resolve(config.Pretraining, None, overrides)
    world = World(settings.distributed)
    loop = Loop(settings, Pretraining(settings, world), world)
    loop._resume()
    loop.saver = Saver(out, world, settings.checkpoint)
    loop._save()
    loop.saver.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
