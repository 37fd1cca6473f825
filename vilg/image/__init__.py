"""Image tokenizers: images to grids of code indices and back."""

import json
from pathlib import Path

from vilg import config
from vilg.errors import UserError, os_reason
from vilg.image.dvae import DVAE
from vilg.image.tokenizer import ImageTokenizer
from vilg.image.vqgan import VQGAN
from vilg.image.vqvae import VQVAE

# kind -> (class, settings)
KINDS: dict[str, tuple[type[ImageTokenizer], type]] = {
    VQVAE.kind: (VQVAE, config.VQVAE),
    VQGAN.kind: (VQGAN, config.VQGAN),
    DVAE.kind: (DVAE, config.DVAE),
}


def load(folder: str | Path) -> ImageTokenizer:
    """The image tokenizer that `ImageTokenizer.save` wrote to `folder`, in evaluation mode.

    Raises UserError for a missing folder, an unknown kind, or weights that do not fit.
    """
    file = Path(folder) / "config.json"
    try:
        description = json.loads(file.read_text("utf-8"))
        kind, settings = description["kind"], description["settings"]
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: damaged, not the description of an image tokenizer") from None
    if kind not in KINDS:
        raise UserError(f"{file}: unknown kind of image tokenizer {kind!r}; known: {', '.join(KINDS)}")
    maker, schema = KINDS[kind]
    tokenizer = maker(config.from_tree(schema, settings, str(file)))
    tokenizer.load_weights(Path(folder) / "weights.safetensors")
    tokenizer.eval()
    return tokenizer
