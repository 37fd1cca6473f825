"""Inference models: programs for Paddle Inference, and the predictor that runs them."""

from vilg.export.predictor import Predictor

__all__ = ["Predictor"]
