"""What lets Paddle's own sharding run on CPU processes that talk through gloo.

Paddle 3.3.1 refuses group-sharded training on a CPU by assertions, and assumes in a few lines that the device's memory
is not the host's. The patches here answer those lines, each with its reason; the algorithms stay Paddle's. On a GPU
nothing of this is imported.
"""

import paddle

from vilg.errors import UserError

TESTED = ("3.3.1",)


def install() -> None:
    """Patch the running Paddle; again is no harm. UserError for a version that this was not tested with."""
    from vilg.distributed.cpu import gloo_groups, group_sharded

    if paddle.__version__ not in TESTED:
        raise UserError(f"PaddlePaddle {paddle.__version__}: several processes on CPUs need {' or '.join(TESTED)}")
    gloo_groups.install()
    group_sharded.install()
