"""`vilg data` and `vilg vocab`."""

from pathlib import Path

from vilg import config
from vilg.commands.command import command, group, overwrite_option, settings
from vilg.files import printable, refuse_existing, write_atomically


def add(commands) -> None:
    _data(commands)
    _vocab(commands)


def _data(commands) -> None:
    kinds = group(commands, "data", "build, encode and inspect data sets", "vilg data openmoji --out data/openmoji")
    openmoji = command(
        kinds,
        "openmoji",
        "build the embedded data set: emoji with Chinese names",
        "vilg data openmoji --out data/openmoji",
        _openmoji,
    )
    openmoji.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the shards")
    _emoji(kinds)
    tokenize = command(
        kinds,
        "tokenize",
        "encode all images of data.shards once and write token shards to data.tokens",
        "vilg data tokenize -c fleet_configs/emoji.yaml 'data.tokens=[data/openmoji/tokens]'\n"
        "  fleetrun --nproc_per_node 2 tools/data_tokenize.py -c FILE",
        _tokenize,
    )
    settings(tokenize)
    inspect = command(
        kinds,
        "inspect",
        "show and verify the content of a shard or of a folder of token shards",
        "vilg data inspect data/openmoji/train-000000.tar\n"
        "  vilg data inspect data/openmoji/tokens --picture tokens.png",
        _inspect,
    )
    inspect.add_argument("path", type=Path, metavar="PATH", help="a tar file, or a folder of token shards")
    inspect.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="write some images to a PNG file; for token shards, images decoded from the codes",
    )
    overwrite_option(inspect)
    inspect.add_argument("--image-tokenizer", metavar="DIR", help="for token shards, if it has been moved since")
    inspect.add_argument("--vocab", metavar="FILE", help="for token shards, if it has been moved since")


def _emoji(kinds) -> None:
    emoji = command(
        kinds,
        "emoji",
        "build a larger data set: 1,923 emoji with Chinese names, each drawn in up to eleven styles",
        "vilg data emoji --styles --out data/styles",
        _styles,
    )
    emoji.add_argument(
        "--styles", action="store_true", required=True, help="in eleven styles; `vilg data openmoji` has one"
    )
    emoji.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the shards")
    emoji.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="folder with the eleven npm packages of drawings as DIR/iconify-json-*/package; by default, they are "
        "downloaded with npm to OUT/packages",
    )
    emoji.add_argument(
        "--max-bad-samples",
        type=int,
        default=config.Data.max_bad_samples,
        metavar="N",
        help=f"maximum number of drawings that cannot be rendered ({config.Data.max_bad_samples})",
    )


def _styles(options) -> None:
    from vilg.data.styles.builder import build

    counts = build(options.out, options.packages, options.max_bad_samples)
    print(f"{options.out}: " + ", ".join(f"{count:,} pictures in {part}-*.tar" for part, count in counts.items()))


def _tokenize(options) -> None:
    resolved = config.resolve(config.Pretraining, options.config, options.overrides)
    from vilg.data.tokenizing import tokenize

    result = tokenize(resolved)
    if result.images:
        print(f"{result.images} images in {result.seconds:.1f} s, {result.images / result.seconds:.1f} per second")
    folder = resolved.data.tokens[0]
    if result.manifest is None:
        print(f"{folder}: this process is done; other processes are still working")
        return
    images, captions, size = (result.manifest.total(what) for what in ("images", "captions", "size"))
    print(
        f"{folder}: {images} images and {captions} captions in {size / 1e6:.1f} MB: "
        f"{size / max(1, images):.0f} bytes per image, {size / max(1, captions):.0f} per pair"
    )


def _inspect(options) -> int:
    from vilg.data.inspection import TokenizerPaths, describe, sample_images

    if options.picture:
        refuse_existing("--picture", options.picture, options.overwrite)
    tokenizers, healthy = TokenizerPaths(options.image_tokenizer, options.vocab), True
    for line, good in describe(options.path, tokenizers):
        print(line)
        healthy = healthy and good
    if options.picture and healthy:
        from PIL import Image

        from vilg.generation.contact_sheet import contact_sheet
        from vilg.generation.metadata import encode_image

        images, of_one = sample_images(options.path, tokenizers)
        sheet = Image.fromarray(contact_sheet(images, of_one if of_one > 1 else None))
        write_atomically(options.picture, encode_image(sheet, "PNG", {"path": printable(options.path)}))
    return 0 if healthy else 1


def _openmoji(options) -> None:
    from vilg.data import openmoji

    counts = openmoji.build(options.out)
    print(f"{options.out}: {counts['train']} training samples, {counts['heldout']} held out")


def _vocab(commands) -> None:
    parser = command(
        commands,
        "vocab",
        "train a WordPiece vocabulary on the captions of shards",
        "vilg vocab --shards 'data/openmoji/train-*.tar' --size 4000 --out data/openmoji/vocab.txt",
        _train_vocabulary,
    )
    parser.add_argument("--shards", nargs="+", required=True, metavar="TAR", help="paths and globs of shards")
    parser.add_argument("--size", type=int, required=True, help="maximum number of entries")
    parser.add_argument(
        "--min-count",
        type=int,
        default=2,
        metavar="N",
        help="characters with fewer occurrences become [UNK], so that [UNK] occurs in training (2)",
    )
    parser.add_argument(
        "--max-bad-samples",
        type=int,
        default=config.Data.max_bad_samples,
        metavar="N",
        help=f"maximum number of broken samples to skip ({config.Data.max_bad_samples})",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="vocab.txt to write")
    overwrite_option(parser)


def _train_vocabulary(options) -> None:
    from vilg.data.captions import CaptionDataset
    from vilg.text.vocabulary import train_vocabulary

    refuse_existing("--out", options.out, options.overwrite)
    captions = CaptionDataset(options.shards, options.max_bad_samples)
    size = train_vocabulary(captions, options.size, options.out, options.min_count)
    print(f"{options.out}: {size} entries")
