"""Options of commands that run a trained model: which one, and how they sample from it."""

import argparse
import secrets
from pathlib import Path


def model_and_sampling(parser: argparse.ArgumentParser, temperature: float = 1.0, top_k: int = 0) -> None:
    """The checkpoint or export, and how tokens are sampled: by default with this temperature and top-k."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--checkpoint", metavar="DIR|URL", help="a step-* folder, or the folder of a run for its newest checkpoint"
    )
    model.add_argument("--export", type=Path, metavar="DIR", help="folder that `vilg export` wrote")
    checkpoint_options(parser)
    parser.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        help=f"below 1: more likely tokens; above 1: more variety ({temperature})",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=top_k,
        metavar="K",
        help=f"sample from the K most likely tokens; 0: all ({top_k or 'all'})",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the most likely tokens with total probability P (1.0: all)",
    )
    parser.add_argument("--greedy", action="store_true", help="always choose the most likely token")
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N|random", help="seed of the random generator, or `random` (0)"
    )


def checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Which weights of a checkpoint are used, and its tokenizers if they are not where they were during training."""
    parser.add_argument(
        "--raw-weights",
        action="store_true",
        help="with --checkpoint: use the weights of the last step instead of their moving average (train.ema_decay)",
    )
    parser.add_argument("--vocab", metavar="FILE", help="with --checkpoint: vocab.txt, if it is not found")
    parser.add_argument(
        "--image-tokenizer", metavar="DIR", help="with --checkpoint: folder of the image tokenizer, if it is not found"
    )


def _seed(text: str) -> int:
    if text == "random":
        return secrets.randbelow(2**53)  # exact in JSON for every reader
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor `random`") from None


def given_sampler(options, greedy: bool):
    """The sampler of the options; those that were not given have their defaults."""
    from vilg.generation.sampling import Sampler

    given = {name: getattr(options, name) for name in ("seed", "temperature", "top_k", "top_p")}
    return Sampler(greedy=greedy, **{name: value for name, value in given.items() if value is not None})


def load_pipeline(options):
    """The Pipeline of the checkpoint or export."""
    if options.export:
        from vilg.export import Predictor

        return Predictor(options.export)
    from vilg.generation.from_checkpoint import load_checkpoint_pipeline

    return load_checkpoint_pipeline(
        options.checkpoint, None, options.vocab, options.image_tokenizer, options.raw_weights
    )
