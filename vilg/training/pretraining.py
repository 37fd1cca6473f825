"""The objective of pre-training: L = w_t2i L_t2i + w_i2t L_i2t (section 3.1.2 of the paper, equations (3) to (5))."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from vilg import config, image
from vilg.arrays import to_numpy
from vilg.attention.patterns import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from vilg.data.loader import Batch, BatchStream, token_batches, training_batches
from vilg.data.token_shards import TokenShards
from vilg.distributed.world import World
from vilg.evaluation.likelihood import Pair, mean_nll
from vilg.generation.contact_sheet import contact_sheet
from vilg.generation.decoder import TransformerDecodingModel
from vilg.generation.sampling import Sampler
from vilg.generation.text_to_image import generate_codes
from vilg.model import flops
from vilg.model.loss import summed_nll, summed_z_loss
from vilg.model.transformer import Transformer, targets
from vilg.text.sequence import CaptionEncoder
from vilg.text.tokenizer import load_tokenizer
from vilg.training.heldout_pairs import read_heldout_pairs
from vilg.training.initial_weights import load_initial_weights
from vilg.training.input_noise import corrupt_tokens
from vilg.training.loss_weights import mean_weights
from vilg.training.z_loss import ZLossMetric

ABBREVIATION = {TEXT_TO_IMAGE: "t2i", IMAGE_TO_TEXT: "i2t"}
_DRAWN = 8  # held-out captions for which images are generated


@dataclass(frozen=True)
class Inputs:
    """A micro-batch in tokens: text int64 [B, T] and image int64 [B, n], which are also the targets.

    The inputs of the model differ from them by caption dropout and input noise: `prompt_ids` and `image_inputs` in
    text-to-image, `source_codes` and `text_inputs` in image-to-text.
    """

    names: list[str]
    captions: list[str]
    text: paddle.Tensor
    image: paddle.Tensor
    prompt_ids: paddle.Tensor
    image_inputs: paddle.Tensor
    source_codes: paddle.Tensor
    text_inputs: paddle.Tensor

    def model_inputs(self, direction: str) -> tuple[paddle.Tensor, paddle.Tensor]:
        """(text, image), the inputs of the model for a direction."""
        return (
            (self.prompt_ids, self.image_inputs)
            if direction == TEXT_TO_IMAGE
            else (self.text_inputs, self.source_codes)
        )


class Pretraining:
    """Trains the shared transformer on text tokens and on the codes of a frozen image tokenizer."""

    throughput_unit = "tokens"

    def __init__(self, settings: config.Pretraining, world: World):
        self.settings, self.world = settings, world
        self.adversaries: dict[str, nn.Layer] = {}
        self.image_tokenizer = image.load(settings.image_tokenizer.path)
        self.text_tokenizer = load_tokenizer(settings.text)
        self.encode = CaptionEncoder(self.text_tokenizer, settings.text.length)
        paddle.seed(settings.run.seed)
        self.model = Transformer(
            settings.model,
            self.text_tokenizer.vocab_size,
            self.image_tokenizer.codebook_size,
            settings.text.length,
            self.image_tokenizer.grid(settings.data.image_size),
            settings.attention,
        )
        self.model.train_only(settings.loss.directions)
        self._z_losses = ZLossMetric()
        # Computed once: both are frozen, and hashing large weights takes seconds.
        self._tokenizers = {"text": self.text_tokenizer.fingerprint(), "image": self.image_tokenizer.fingerprint()}
        self._tokens = self._open_tokens() if settings.data.tokens else None
        self.heldout: list[Pair] = []

    def load_initial_weights(self) -> None:
        """Replace the random weights by those of `init`. All ranks call this."""
        load_initial_weights(self.model, self.settings, self.text_tokenizer, self._tokenizers, self.world)

    def read_heldout(self) -> None:
        """Read what `evaluate` and `sample_images` need. All ranks call this together.

        Called before training, so that errors are reported then and not after an hour.
        """
        settings = self.settings
        if settings.train.needs_heldout:
            self.heldout = read_heldout_pairs(
                settings.data,
                self.encode,
                self.image_tokenizer,
                self._tokenizers["image"],
                settings.run.folder,
                self.world,
            )

    def batches(self, consumed: int) -> BatchStream:
        where = (
            self.settings.data,
            self.settings.run.seed,
            self.settings.train.micro_batch,
            self.world.rank,
            self.world.ranks,
            consumed,
            self.encode,
        )
        return token_batches(self._tokens, *where) if self._tokens else training_batches(*where)

    def flops_per_sample(self) -> float:
        return flops.model_flops(self.model, 1)

    def on_step_begin(self, step: int) -> None:
        self._z_losses = ZLossMetric()

    @paddle.no_grad()
    def prepare_batch(self, batch: Batch) -> Inputs:
        if batch.codes is None:
            codes = self.image_tokenizer.encode(paddle.to_tensor(batch.required("images"))).flatten(1)
        else:
            codes = paddle.to_tensor(batch.codes)
        text = paddle.to_tensor(batch.required("text"))
        noise = self.settings.input_noise
        return Inputs(
            batch.names,
            batch.captions,
            text,
            codes,
            self._drop_captions(text, batch.seeds),
            self._corrupt_codes(codes, noise.target_image, batch.seeds),
            self._corrupt_codes(codes, noise.source_image, batch.seeds),
            self._corrupt_text(text, batch.seeds),
        )

    def loss_denominators(self, inputs: Inputs) -> dict[str, float]:
        directions = self.settings.loss.directions
        return {ABBREVIATION[direction]: float(self._targets(direction, inputs)[1].sum()) for direction in directions}

    def throughput_units(self, inputs: Inputs) -> int:
        return len(self.settings.loss.directions) * (inputs.text.size + inputs.image.size)

    def losses(self, inputs: Inputs, model: nn.Layer) -> Iterator[tuple[str, paddle.Tensor]]:
        for direction in self.settings.loss.directions:
            yield ABBREVIATION[direction], self._loss(direction, inputs, model)

    def _loss(self, direction: str, inputs: Inputs, model: nn.Layer) -> paddle.Tensor:
        """The summed loss of a direction. After it nothing here refers to the logits, which are large."""
        logits = model(direction, *inputs.model_inputs(direction))
        ids, counted = self._targets(direction, inputs)
        loss = summed_nll(logits, ids, counted)
        if not self.settings.loss.z_loss:
            return loss
        z_loss = summed_z_loss(logits, counted)
        self._z_losses.add(ABBREVIATION[direction], z_loss, counted)
        # Its gradient only: the reported loss stays the likelihood.
        return loss + self.settings.loss.z_loss * (z_loss - z_loss.detach())

    def weights(self, counts: dict[str, float]) -> dict[str, float]:
        tokens = {direction: counts[ABBREVIATION[direction]] for direction in self.settings.loss.directions}
        weights = mean_weights(self.settings.loss, tokens)
        return {ABBREVIATION[direction]: weight for direction, weight in weights.items()}

    def on_step_end(self, step: int) -> dict[str, float]:
        return self._z_losses.means(self.world) if self.settings.loss.z_loss else {}

    def discard_step(self) -> None:
        pass

    def evaluate(self) -> dict[str, float]:
        """Both directions, also with the loss weight 0 of one: its likelihood tells what fine-tuning on the other one
        costs it.
        """
        self.model.eval()
        nll = mean_nll(self.model, self.heldout, self.settings.train.micro_batch, self.world)
        self.model.train()
        return {f"heldout_nll_{ABBREVIATION[direction]}": value for direction, value in nll.items()}

    def sample_images(self) -> dict[str, np.ndarray]:
        pairs = self.heldout[:: max(1, len(self.heldout) // _DRAWN)][:_DRAWN]
        self.model.eval()
        text = np.stack([pair.text for pair in pairs])
        codes = generate_codes(TransformerDecodingModel(self.model), text, Sampler(self.settings.run.seed, top_k=32))
        self.model.train()
        images = to_numpy(self.image_tokenizer.decode(paddle.to_tensor(codes)))
        return {"heldout": contact_sheet(images)}

    def _open_tokens(self) -> TokenShards:
        tokens = TokenShards(self.settings.data.tokens)
        tokens.check_compatible(self.settings.data, self._tokenizers)
        return tokens

    def tokenizers(self) -> dict[str, str]:
        return self._tokenizers

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        pass

    def on_train_end(self, folder: Path) -> None:
        pass

    def _drop_captions(self, text: paddle.Tensor, seeds: list[int]) -> paddle.Tensor:
        share = self.settings.train.caption_dropout
        if not share:
            return text
        # Other random numbers than those that corrupt_tokens draws from the same seed.
        dropped = np.array([np.random.default_rng([seed, 1]).random() < share for seed in seeds])
        return paddle.to_tensor(np.where(dropped[:, None], self.encode(""), to_numpy(text)))

    def _corrupt_text(self, text: paddle.Tensor, seeds: list[int]) -> paddle.Tensor:
        share, tokenizer = self.settings.input_noise.target_text, self.text_tokenizer
        if not share:
            return text
        ids = to_numpy(text)
        words = (ids < tokenizer.vocab_size) & (ids != tokenizer.cls_id) & (ids != tokenizer.sep_id)
        return paddle.to_tensor(corrupt_tokens(ids, words, share, tokenizer.vocab_size, seeds))

    def _corrupt_codes(self, codes: paddle.Tensor, share: float, seeds: list[int]) -> paddle.Tensor:
        if not share:
            return codes
        return paddle.to_tensor(corrupt_tokens(to_numpy(codes), True, share, self.image_tokenizer.codebook_size, seeds))

    def _targets(self, direction: str, inputs: Inputs):
        return targets(direction, inputs.text, inputs.image, self.model.vocab_size)
