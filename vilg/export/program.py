"""One exported program, run by Paddle Inference."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import inference

from vilg.errors import UserError


class ProgramLoadError(UserError):
    """A program that Paddle Inference cannot load: from another version of Paddle, or incomplete."""


@dataclass(frozen=True)
class Runtime:
    """Where programs run. device: "cpu", "gpu" or "gpu:N". threads: on a CPU; None: OMP_NUM_THREADS."""

    device: str
    threads: int | None = None

    def __post_init__(self):
        if not re.fullmatch(r"cpu|gpu(:\d+)?", self.device):
            raise UserError(f"device {self.device}: cpu, gpu or gpu:N expected")
        if self.device != "cpu" and not paddle.is_compiled_with_cuda():
            raise UserError(f"device {self.device}: this PaddlePaddle has no support for GPUs")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads {self.threads}: must be positive")

    @property
    def place(self) -> paddle.base.core.Place:
        """Where its tensors are."""
        number = int(self.device.partition(":")[2] or _current_gpu())
        return paddle.CPUPlace() if self.device == "cpu" else paddle.CUDAPlace(number)

    def configure(self, settings: inference.Config) -> None:
        if self.device == "cpu":
            settings.disable_gpu()
            # oneDNN reorders the weights for every new shape: a step of one token takes 1.6 times as long.
            settings.disable_mkldnn()
            settings.set_cpu_math_library_num_threads(self.threads or _process_threads())
        else:
            settings.enable_use_gpu(256, self.place.gpu_device_id())


class Program:
    """An exported program, loaded at the first call so that unused programs take no memory.

    name: the path without suffixes, for messages. written_by: version of Paddle that wrote it. files: returns the paths
    of structure and weights, None for a program without weights; by default NAME.json and NAME.pdiparams. weights:
    returns tensors that are the last inputs of each call. Only one thread at a time may use a program. The first call
    raises ProgramLoadError if this version of Paddle cannot load it.
    """

    def __init__(
        self,
        name: Path,
        written_by: str = paddle.__version__,
        files: Callable[[], tuple[Path, Path | None]] | None = None,
        runtime: Runtime | None = None,
        weights: Callable[[], list[paddle.Tensor]] | None = None,
    ):
        self._path, self._written_by = name, written_by
        alone = None if weights else Path(f"{name}.pdiparams")
        self._files = files or (lambda: (Path(f"{name}.json"), alone))
        self._runtime, self._weights = runtime or Runtime(paddle.get_device()), weights
        self._predictor: inference.Predictor | None = None

    def __call__(self, *inputs: np.ndarray | paddle.Tensor) -> list[paddle.Tensor]:
        predictor = self._loaded()
        if self._runtime.threads:
            paddle.base.core.set_num_threads(self._runtime.threads)
        try:
            tensors = [paddle.to_tensor(value) if isinstance(value, np.ndarray) else value for value in inputs]
            outputs = predictor.run(tensors + (self._weights() if self._weights else []))
        finally:
            # Paddle 3.3.1 sets the number of threads of the whole process to one after every run.
            paddle.base.core.set_num_threads(_process_threads())
        return [output.clone() for output in outputs]  # the next call reuses the memory

    def clone(self) -> "Program":
        """A program for another thread, loaded at its first call. It shares `weights`, and copies its other weights, as
        clones of Paddle 3.3.1 would.
        """
        return Program(self._path, self._written_by, self._files, self._runtime, self._weights)

    def _loaded(self) -> inference.Predictor:
        if self._predictor is None:
            settings = inference.Config(*(str(file) if file else "" for file in self._files()))
            settings.enable_new_executor(True)  # memory_optim needs it
            settings.enable_memory_optim()
            settings.disable_glog_info()
            self._runtime.configure(settings)
            try:
                self._predictor = inference.create_predictor(settings)
            except RuntimeError as error:
                raise ProgramLoadError(
                    f"{self._path}: Paddle {self._written_by} wrote it, Paddle {paddle.__version__} cannot "
                    f"load it ({' '.join(str(error).split())[:100]})"
                ) from None
        return self._predictor


def _current_gpu() -> str:
    """The number of the GPU that this process uses; fleetrun gives each of its processes another one."""
    return paddle.get_device().partition(":")[2] or "0"


def _process_threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])  # set by vilg/runtime.py
