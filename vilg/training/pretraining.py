"""The objective of pre-training: L = L_t2i + L_i2t (section 3.1.2 of the paper)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from vilg import config, image
from vilg.attention.patterns import DIRECTIONS, IMAGE_TO_TEXT, TEXT_TO_IMAGE
from vilg.data.loader import Batch, heldout_samples, token_batches, training_batches
from vilg.data.token_shards import TokenShards
from vilg.distributed.world import World
from vilg.evaluation.likelihood import Pair, mean_nll, tokenize_pairs
from vilg.generation.contact_sheet import contact_sheet
from vilg.generation.decoder import TransformerReader
from vilg.generation.drawing import draw
from vilg.generation.sampling import Sampler
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets
from vilg.text.sequence import CaptionEncoder
from vilg.text.tokenizer import load_tokenizer
from vilg.training.noise import with_wrong_tokens

SHORT = {TEXT_TO_IMAGE: "t2i", IMAGE_TO_TEXT: "i2t"}
_DRAWN = 8  # held-out captions drawn for VisualDL


@dataclass(frozen=True)
class Inputs:
    """A micro-batch in tokens: text int64 [B, T] and image int64 [B, n].

    `told`, `drawn`, `seen` and `written` are what the model reads of them: the caption it draws from, which may have
    been dropped, and with the noise of the settings the codes it draws, the codes it describes and the words it writes.
    """

    names: list[str]
    captions: list[str]
    text: paddle.Tensor
    image: paddle.Tensor
    told: paddle.Tensor
    drawn: paddle.Tensor
    seen: paddle.Tensor
    written: paddle.Tensor

    def read(self, direction: str) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The (text, image) that the model reads."""
        return (self.told, self.drawn) if direction == TEXT_TO_IMAGE else (self.written, self.seen)


class Pretraining:
    """The shared transformer over text tokens and the codes of a frozen image tokenizer."""

    unit = "tokens"
    rivals: dict[str, nn.Layer] = {}

    def __init__(self, settings: config.Pretraining, world: World):
        self.settings, self.world = settings, world
        self.image_tokenizer = image.load(settings.image_tokenizer.path)
        self.text_tokenizer = load_tokenizer(settings.text)
        self.encode = CaptionEncoder(self.text_tokenizer, settings.text.length)
        paddle.seed(settings.run.seed)
        self.model = Transformer(
            settings.model,
            self.text_tokenizer.size,
            self.image_tokenizer.vocabulary,
            settings.text.length,
            self.image_tokenizer.grid(settings.data.image_size),
            settings.attention,
        )
        # Once: both are frozen, and hashing the weights of a large one at every checkpoint would take seconds.
        self._tokenizers = {"text": self.text_tokenizer.fingerprint(), "image": self.image_tokenizer.fingerprint()}
        self._tokens = self._open_tokens() if settings.data.tokens else None
        self._weights = {"t2i": settings.loss.text_to_image, "i2t": settings.loss.image_to_text}
        # Read at once, so that what is wrong with it is said before the training and not an hour into it.
        self.heldout = self._read_heldout() if settings.train.measure_every or settings.train.draw_every else []

    def batches(self, consumed: int) -> Iterator[Batch]:
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

    def begin(self, step: int) -> None:
        pass

    @paddle.no_grad()
    def prepare(self, batch: Batch) -> Inputs:
        if batch.codes is None:
            codes = self.image_tokenizer.encode(paddle.to_tensor(batch.images)).flatten(1)
        else:
            codes = paddle.to_tensor(batch.codes)
        text = paddle.to_tensor(batch.text)
        noise = self.settings.noise
        return Inputs(
            batch.names,
            batch.captions,
            text,
            codes,
            self._some_dropped(text, batch.seeds),
            self._noisy_codes(codes, noise.drawn, batch.seeds),
            self._noisy_codes(codes, noise.seen, batch.seeds),
            self._noisy_words(text, batch.seeds),
        )

    def counts(self, inputs: Inputs) -> dict[str, float]:
        return {SHORT[direction]: float(self._targets(direction, inputs)[1].sum()) for direction in DIRECTIONS}

    def units(self, inputs: Inputs) -> int:
        return len(DIRECTIONS) * (inputs.text.size + inputs.image.size)

    def losses(self, inputs: Inputs, model: nn.Layer) -> Iterator[tuple[str, paddle.Tensor]]:
        for direction in DIRECTIONS:
            logits = model(direction, *inputs.read(direction))
            yield SHORT[direction], summed_nll(logits, *self._targets(direction, inputs))

    def weight(self, name: str) -> float:
        return self._weights[name]

    def after_update(self, step: int) -> dict[str, float]:
        return {}

    def measure(self) -> dict[str, float]:
        self.model.eval()
        nll = mean_nll(self.model, self.heldout, self.settings.train.micro_batch, self.world)
        self.model.train()
        return {f"heldout_nll_{SHORT[direction]}": value for direction, value in nll.items()}

    def draw(self) -> dict[str, np.ndarray]:
        pairs = self.heldout[:: max(1, len(self.heldout) // _DRAWN)][:_DRAWN]
        self.model.eval()
        text = np.stack([pair.text for pair in pairs])
        codes = draw(TransformerReader(self.model), text, Sampler(self.settings.run.seed, top_k=32))
        self.model.train()
        drawn = self.image_tokenizer.decode(paddle.to_tensor(codes)).numpy()
        return {"heldout": contact_sheet(drawn)}

    def _open_tokens(self) -> TokenShards:
        tokens = TokenShards(self.settings.data.tokens)
        tokens.refuse_others(self.settings.data, self._tokenizers)
        return tokens

    def _read_heldout(self) -> list[Pair]:
        """Every (caption, image) of the held-out shards in tokens."""
        samples = heldout_samples(self.settings.data)
        return tokenize_pairs(samples, self.encode, self.image_tokenizer)

    def tokenizers(self) -> dict[str, str]:
        return self._tokenizers

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        pass

    def finish(self, folder: Path) -> None:
        pass

    def _some_dropped(self, text: paddle.Tensor, seeds: list[int]) -> paddle.Tensor:
        share = self.settings.train.drop_caption
        if not share:
            return text
        # Not the numbers that with_wrong_tokens draws from the same seed.
        dropped = np.array([np.random.default_rng([seed, 1]).random() < share for seed in seeds])
        return paddle.to_tensor(np.where(dropped[:, None], self.encode(""), text.numpy()))

    def _noisy_words(self, text: paddle.Tensor, seeds: list[int]) -> paddle.Tensor:
        share, tokenizer = self.settings.noise.written, self.text_tokenizer
        if not share:
            return text
        ids = text.numpy()
        words = (ids < tokenizer.size) & (ids != tokenizer.begin) & (ids != tokenizer.end)
        return paddle.to_tensor(with_wrong_tokens(ids, words, share, tokenizer.size, seeds))

    def _noisy_codes(self, codes: paddle.Tensor, share: float, seeds: list[int]) -> paddle.Tensor:
        if not share:
            return codes
        return paddle.to_tensor(with_wrong_tokens(codes.numpy(), True, share, self.image_tokenizer.vocabulary, seeds))

    def _targets(self, direction: str, inputs: Inputs):
        return targets(direction, inputs.text, inputs.image, self.model.vocabulary)
