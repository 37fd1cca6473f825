"""Loads the model of a checkpoint together with its tokenizers."""

import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import paddle

from vilg import checkpoint, config, image
from vilg.arrays import to_numpy
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.generation.decoder import TransformerDecodingModel
from vilg.generation.pipeline import Pipeline
from vilg.image.tokenizer import ImageTokenizer
from vilg.model.transformer import Transformer
from vilg.text.tokenizer import TextTokenizer, load_tokenizer

_OF_AN_EXPORT = "text_to_image_step.json"  # a file that every export has, and no checkpoint


class CheckpointPipeline(Pipeline):
    """The pipeline of a checkpoint: the model in evaluation mode, in Python."""

    def __init__(
        self,
        origin: checkpoint.Location,
        settings: config.Pretraining,
        model: Transformer,
        text_tokenizer: TextTokenizer,
        image_tokenizer: ImageTokenizer,
    ):
        self.origin, self.lock = str(origin), threading.RLock()
        self.checkpoint = self.origin
        self.settings, self.image_size = settings, settings.data.image_size
        self.caption_dropout = settings.train.caption_dropout
        self.model, self.decoding_model = model, TransformerDecodingModel(model)
        self.text_tokenizer, self.image_tokenizer = text_tokenizer, image_tokenizer

    @paddle.no_grad()
    def encode(self, images: np.ndarray) -> np.ndarray:
        return to_numpy(self.image_tokenizer.encode(paddle.to_tensor(images)))

    @paddle.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        return to_numpy(self.image_tokenizer.decode(paddle.to_tensor(codes)))


def load_checkpoint_pipeline(
    folder: checkpoint.Location,
    attention: config.Attention | None = None,
    vocabulary: str | None = None,
    image_tokenizer: str | None = None,
    raw_weights: bool = False,
) -> CheckpointPipeline:
    """Load a checkpoint directory (a path or URL), or the newest valid checkpoint of a run.

    attention: overrides the attention settings of the run. vocabulary, image_tokenizer: paths of the tokenizers. By
    default these are the paths of the settings, relative to the current folder, or else to the run or a folder above
    it. raw_weights: the weights of the last step, also if the checkpoint has their moving average (train.ema_decay).
    """
    directory = checkpoint.location(folder)
    if isinstance(directory, Path) and (directory / _OF_AN_EXPORT).is_file():
        raise UserError(f"{directory}: an export, not a checkpoint; use --export")
    if isinstance(directory, Path) and (directory / "settings.yaml").is_file():
        directory = newest_checkpoint_in_run(directory)  # has been verified already
    else:
        checkpoint.verify(directory)
    reader = checkpoint.CheckpointReader(directory)
    manifest = reader.manifest
    settings = config.from_tree(config.Pretraining, manifest.settings, f"{directory}: not of a pre-training run")
    settings.text.vocab = vocabulary or find_path(settings.text.vocab, directory)
    settings.image_tokenizer.path = image_tokenizer or find_path(settings.image_tokenizer.path, directory)
    text_tokenizer, images = load_tokenizer(settings.text), image.load(settings.image_tokenizer.path)
    if manifest.tokenizers != {"text": text_tokenizer.fingerprint(), "image": images.fingerprint()}:
        raise UserError(
            f"{directory}: {settings.text.vocab} and {settings.image_tokenizer.path} are not what it was "
            "trained with; were they replaced? --vocab and --image-tokenizer name others"
        )
    model = Transformer(
        settings.model,
        text_tokenizer.vocab_size,
        images.codebook_size,
        settings.text.length,
        images.grid(settings.data.image_size),
        attention,
    )
    names = weight_names(reader.shapes, raw_weights)
    model.set_state_dict({name: paddle.to_tensor(reader.tensor(stored)) for name, stored in names.items()})
    model.eval()
    return CheckpointPipeline(directory, settings, model, text_tokenizer, images)


def weight_names(stored: Iterable[str], raw_weights: bool = False) -> dict[str, str]:
    """{name of a weight or buffer of the model: the tensor of the checkpoint that is loaded into it}.

    stored: the names of all tensors of the checkpoint. The moving average wins unless `raw_weights`. A frozen parameter
    has none.
    """
    kinds = ("model/",) if raw_weights else ("model/", "ema/")
    return {name.removeprefix(kind): name for kind in kinds for name in stored if name.startswith(kind)}


def find_path(path: str, directory: checkpoint.Location) -> str:
    """A path of the settings, which is relative to the folder in which the run was started, if it can be found."""
    if not isinstance(directory, Path) or Path(path).is_absolute() or Path(path).exists():
        return path
    above = [folder / path for folder in directory.absolute().parents]
    return str(next((found for found in above if found.exists()), path))


def newest_checkpoint_in_run(run: Path, world: World | None = None) -> checkpoint.Location:
    """The newest valid checkpoint, verified. With a `world`, all ranks call this and share the hashing."""
    newest = checkpoint.newest_valid(checkpoint.checkpoint_folder(run), world)
    if newest is None:
        raise UserError(f"{run}: no valid checkpoint in this run")
    return newest
