"""One exported program, run by Paddle Inference."""

import os
from pathlib import Path

import numpy as np
import paddle
from paddle import inference

from vilg.errors import UserError


class ProgramLoadError(UserError):
    """A program that Paddle Inference cannot load: from another version of Paddle, or incomplete."""


class Program:
    """`PATH.json` and `PATH.pdiparams`, loaded at the first call so that unused programs take no memory.

    Only one thread at a time may use a program. written_by: version of Paddle that wrote it. The first call raises
    ProgramLoadError if this version cannot load it.
    """

    def __init__(self, path: Path, written_by: str = paddle.__version__):
        self._path, self._written_by = path, written_by
        self._predictor: inference.Predictor | None = None

    def __call__(self, *inputs: np.ndarray | paddle.Tensor) -> list[paddle.Tensor]:
        predictor = self._loaded()
        try:
            outputs = predictor.run(
                [paddle.to_tensor(value) if isinstance(value, np.ndarray) else value for value in inputs]
            )
        finally:
            # Paddle 3.3.1 sets the number of threads of the whole process to one after every run.
            paddle.base.core.set_num_threads(_threads())
        return [output.clone() for output in outputs]  # the next call reuses the memory

    def clone(self) -> "Program":
        """A program for another thread, loaded at its first call. (Clones of Paddle 3.3.1 copy the weights anyway.)"""
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
                # oneDNN reorders the weights for every new shape: a step of one token takes 1.6 times as long.
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
    return int(os.environ["OMP_NUM_THREADS"])  # set by vilg/runtime.py
