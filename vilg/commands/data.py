"""`vilg data` and `vilg vocab`."""

from pathlib import Path

from vilg import config
from vilg.commands.command import command, group, settings


def add(commands) -> None:
    _data(commands)
    _vocab(commands)


def _data(commands) -> None:
    kinds = group(
        commands, "data", "build data sets, encode them, look into them", "vilg data openmoji --out data/openmoji"
    )
    openmoji = command(
        kinds,
        "openmoji",
        "build the embedded data set: emoji and their Chinese names",
        "vilg data openmoji --out data/openmoji",
        _openmoji,
    )
    openmoji.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the shards go")
    tokenize = command(
        kinds,
        "tokenize",
        "encode the images of data.shards once, into the folder data.tokens",
        "vilg data tokenize -c fleet_configs/emoji.yaml 'data.tokens=[data/openmoji/tokens]'\n"
        "  fleetrun --nproc_per_node 2 tools/data_tokenize.py -c FILE",
        _tokenize,
    )
    settings(tokenize)
    inspect = command(
        kinds,
        "inspect",
        "show what is in a shard of images or a folder of token shards, and check it",
        "vilg data inspect data/openmoji/train-000000.tar\n"
        "  vilg data inspect data/openmoji/tokens --picture tokens.png",
        _inspect,
    )
    inspect.add_argument("path", type=Path, metavar="PATH", help="a tar, or a folder of token shards")
    inspect.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="write some of its images to a PNG; of token shards, what the codes give back",
    )
    inspect.add_argument("--image-tokenizer", metavar="DIR", help="of token shards, where it lies now")
    inspect.add_argument("--vocab", metavar="FILE", help="of token shards, where it lies now")


def _tokenize(options) -> None:
    resolved = config.resolve(config.Pretraining, options.config, options.overrides)
    from vilg.data.tokenizing import tokenize

    made = tokenize(resolved)
    if made.images:
        print(f"{made.images} images in {made.seconds:.1f} s: {made.images / made.seconds:.1f} a second")
    folder = resolved.data.tokens[0]
    if made.manifest is None:
        print(f"{folder}: this process has done its share")
        return
    images, captions, size = (made.manifest.total(what) for what in ("images", "captions", "size"))
    print(
        f"{folder}: {images} images and {captions} captions in {size / 1e6:.1f} MB: "
        f"{size / max(1, images):.0f} bytes an image, {size / max(1, captions):.0f} a pair"
    )


def _inspect(options) -> int:
    from vilg.data.inspection import TokenizerPaths, describe, sample_images

    tokenizers, healthy = TokenizerPaths(options.image_tokenizer, options.vocab), True
    for line, good in describe(options.path, tokenizers):
        print(line)
        healthy = healthy and good
    if options.picture and healthy:
        from PIL import Image

        from vilg.generation.contact_sheet import contact_sheet

        images, of_one = sample_images(options.path, tokenizers)
        Image.fromarray(contact_sheet(images, of_one if of_one > 1 else None)).save(options.picture, "PNG")
    return 0 if healthy else 1


def _openmoji(options) -> None:
    from vilg.data import openmoji

    counts = openmoji.build(options.out)
    print(f"{options.out}: {counts['train']} samples to train on, {counts['heldout']} held out")


def _vocab(commands) -> None:
    made = command(
        commands,
        "vocab",
        "train a WordPiece vocabulary on the captions of shards",
        "vilg vocab --shards 'data/openmoji/train-*.tar' --size 4000 --out data/openmoji/vocab.txt",
        _train_vocabulary,
    )
    made.add_argument("--shards", nargs="+", required=True, metavar="TAR", help="paths and globs of shards")
    made.add_argument("--size", type=int, required=True, help="entries at most")
    made.add_argument(
        "--min-count",
        type=int,
        default=2,
        metavar="N",
        help="characters seen less often become [UNK], so that a model meets some in training (2)",
    )
    made.add_argument(
        "--max-bad-samples",
        type=int,
        default=config.Data.max_bad_samples,
        metavar="N",
        help=f"broken samples to skip before giving up ({config.Data.max_bad_samples})",
    )
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="the vocab.txt to write")


def _train_vocabulary(options) -> None:
    from vilg.data.captions import CaptionDataset
    from vilg.text.vocabulary import train_vocabulary

    captions = CaptionDataset(options.shards, options.max_bad_samples)
    size = train_vocabulary(captions, options.size, options.out, options.min_count)
    print(f"{options.out}: {size} entries")
