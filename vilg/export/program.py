"""One exported program, run by Paddle Inference."""

import os
from pathlib import Path

import numpy as np
import paddle
from paddle import inference

from vilg.errors import UserError


class ProgramLoadError(UserError):
    """A program that Paddle Inference cannot load: of another version of Paddle, or not written whole."""


class Program:
    """`PATH.json` and `PATH.pdiparams`; loaded at the first call, so that what is never used takes no memory.

    A program belongs to one thread at a time. `written_by` is the version of Paddle that wrote it. The first call
    raises ProgramLoadError if this version cannot load it.
    """

    def __init__(self, path: Path, written_by: str = paddle.__version__):
        self._path, self._written_by, self._predictor = path, written_by, None

    def __call__(self, *inputs: np.ndarray | paddle.Tensor) -> list[paddle.Tensor]:
        predictor = self._loaded()
        try:
            outputs = predictor.run([paddle.to_tensor(one) if isinstance(one, np.ndarray) else one for one in inputs])
        finally:
            # It leaves all that Paddle computes in this process with one thread: Paddle 3.3.1 sets it after every run.
            paddle.base.core.set_num_threads(_threads())
        return [output.clone() for output in outputs]  # the next call writes into the same memory

    def clone(self) -> "Program":
        """For another thread. The clones of Paddle 3.3.1 copy the weights, so this one may as well load them late."""
        return Program(self._path, self._written_by)

    def _loaded(self) -> inference.Predictor:
        if self._predictor is None:
            settings = inference.Config(f"{self._path}.json", f"{self._path}.pdiparams")
            settings.enable_new_executor(True)  # memory_optim needs it
            settings.enable_memory_optim()
            settings.disable_glog_info()
            if paddle.is_compiled_with_cuda() and paddle.get_device() != "cpu":
                settings.enable_use_gpu(256, 0)
            else:
                # oneDNN lays the weights out anew at every shape it meets: on one token a step takes 1.6 times as long.
                settings.disable_mkldnn()
                settings.set_cpu_math_library_num_threads(_threads())
            try:
                self._predictor = inference.create_predictor(settings)
            except RuntimeError as error:
                raise ProgramLoadError(
                    f"{self._path}: Paddle {self._written_by} wrote it, Paddle {paddle.__version__} cannot "
                    f"load it ({' '.join(str(error).split())[:100]})"
                ) from None
        return self._predictor


def _threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])  # vilg/runtime.py sets it
