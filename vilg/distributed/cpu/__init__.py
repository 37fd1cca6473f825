"""Patches that let Paddle's sharding run on CPU processes with gloo.

Paddle 3.3.1 refuses group-sharded training on CPUs by assertions, and a few lines assume that device memory differs
from host memory. Each patch names the line that it works around; the algorithms are Paddle's. On a GPU this package is
not imported.
"""

import paddle

from vilg.errors import UserError

TESTED = ("3.3.1",)


def install() -> None:
    """Apply the patches. Calling it again has no effect. Raises UserError for an untested version of Paddle."""
    from vilg.distributed.cpu import gloo_groups, group_sharded

    if paddle.__version__ not in TESTED:
        raise UserError(f"PaddlePaddle {paddle.__version__}: several processes on CPUs need {' or '.join(TESTED)}")
    gloo_groups.install()
    group_sharded.install()
