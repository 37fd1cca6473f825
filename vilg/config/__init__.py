"""Typed settings: dataclasses that are the only place of a default.

A run is described by one YAML file (`-c fleet_configs/x.yaml`) and `key=value` overrides. `resolve` merges both over
the defaults and checks the result. Every run stores its resolved settings.
"""

from vilg.config.data import LONGEST_TEXT, Data, ImageTokenizer, Text, Tokenize
from vilg.config.distributed import Cluster, Distributed
from vilg.config.image_tokenizers import DVAE, VQGAN, VQVAE
from vilg.config.model import Attention, Model
from vilg.config.renamed import original_names
from vilg.config.resolver import as_tree, from_tree, known_keys, resolve, save
from vilg.config.resume import Resume
from vilg.config.run import Checkpoint, Run
from vilg.config.schemas import ImageTokenizerTraining, Pretraining, TrainingSettings
from vilg.config.tokenizer_training import (
    Autoencoder,
    Codebook,
    DeadCodes,
    Discriminator,
    Gumbel,
    LogitLaplace,
    Perceptual,
    PixelLoss,
    Residual,
)
from vilg.config.training import InputNoise, LossWeights, Train
from vilg.config.validation import require

__all__ = [
    "DVAE",
    "LONGEST_TEXT",
    "VQGAN",
    "VQVAE",
    "Attention",
    "Autoencoder",
    "Checkpoint",
    "Cluster",
    "Codebook",
    "Data",
    "DeadCodes",
    "Discriminator",
    "Distributed",
    "Gumbel",
    "ImageTokenizer",
    "ImageTokenizerTraining",
    "InputNoise",
    "LogitLaplace",
    "LossWeights",
    "Model",
    "Perceptual",
    "PixelLoss",
    "Pretraining",
    "Residual",
    "Resume",
    "Run",
    "Text",
    "Tokenize",
    "Train",
    "TrainingSettings",
    "as_tree",
    "from_tree",
    "known_keys",
    "original_names",
    "require",
    "resolve",
    "save",
]
