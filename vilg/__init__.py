"""vilg: pre-training of ERNIE-ViLG (arXiv 2112.15283) on PaddlePaddle Fleet."""

from vilg import runtime

__version__ = "0.1.0"

# Paddle reads the settings of its thread pool and of MKL once, while it is imported, so they come first of all.
runtime.prepare()
