"""Running one exported program."""

import os
import subprocess
import sys

import paddle


class Doubled(paddle.nn.Layer):
    def forward(self, x):
        return x * 2.0


def test_a_program_restores_the_number_of_threads(tmp_path):
    """Paddle Inference sets the number of threads to one after each run, for the whole process."""
    paddle.jit.save(Doubled(), str(tmp_path / "doubled"), [paddle.static.InputSpec([None], "float32", "x")])
    program = f"""if True:
        import ctypes
        from pathlib import Path
        import vilg, numpy as np, paddle
        from vilg.export.program import Program

        openmp = ctypes.CDLL(str(Path(paddle.__file__).parent / "libs" / "libiomp5.so"))
        before = openmp.omp_get_max_threads()
        doubled = Program(Path({str(tmp_path / "doubled")!r}))(np.float32([1, 2]))[0].numpy().tolist()
        print(before, openmp.omp_get_max_threads(), doubled)
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3 3 [2.0, 4.0]"
