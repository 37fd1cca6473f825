"""`vilg data` and `vilg vocab`."""

from pathlib import Path

from vilg import config
from vilg.commands.command import command, group


def add(commands) -> None:
    _data(commands)
    _vocab(commands)


def _data(commands) -> None:
    kinds = group(commands, "data", "build data sets", "vilg data openmoji --out data/openmoji")
    openmoji = command(kinds, "openmoji", "build the embedded data set: emoji and their Chinese names",
                       "vilg data openmoji --out data/openmoji", _openmoji)
    openmoji.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the shards go")


def _openmoji(options) -> None:
    from vilg.data import openmoji

    counts = openmoji.build(options.out)
    print(f"{options.out}: {counts['train']} samples to train on, {counts['heldout']} held out")


def _vocab(commands) -> None:
    made = command(commands, "vocab", "train a WordPiece vocabulary on the captions of shards",
                   "vilg vocab --shards 'data/openmoji/train-*.tar' --size 4000 --out data/openmoji/vocab.txt",
                   _train_vocabulary)
    made.add_argument("--shards", nargs="+", required=True, metavar="TAR", help="paths and globs of shards")
    made.add_argument("--size", type=int, required=True, help="entries at most")
    made.add_argument("--min-count", type=int, default=2, metavar="N",
                      help="characters seen less often become [UNK], so that a model meets some in training (2)")
    made.add_argument("--max-faults", type=int, default=config.Data.max_faults, metavar="N",
                      help=f"broken samples to skip before giving up ({config.Data.max_faults})")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="the vocab.txt to write")


def _train_vocabulary(options) -> None:
    from vilg.data.captions import EveryCaption
    from vilg.text.vocabulary import train_vocabulary

    captions = EveryCaption(options.shards, options.max_faults)
    size = train_vocabulary(captions, options.size, options.out, options.min_count)
    print(f"{options.out}: {size} entries")
