"""The weights that a run starts from."""

from dataclasses import dataclass

from vilg.config.validation import require


@dataclass
class Init:
    """`init=X` is short for `init.checkpoint=X`. A run that has checkpoints of its own continues from these."""

    checkpoint: str = (
        ""  # a run (its newest checkpoint), a checkpoint, or an export (its checkpoint); "": random weights
    )
    # true: what the checkpoint lacks or has in another size starts anew or is resized; see docs/finetuning.md
    partial: bool = False
    vocab: str = ""  # with partial: the vocabulary of the checkpoint, if its settings no longer lead to it
    raw_weights: bool = False  # the weights of the last step instead of their moving average (train.ema_decay)

    def __post_init__(self):
        require(
            bool(self.checkpoint) or not (self.partial or self.vocab or self.raw_weights),
            "init.checkpoint is empty: init.partial, init.vocab and init.raw_weights belong to a checkpoint",
        )
