"""`vilg bench`."""

import json
from pathlib import Path

from vilg import config
from vilg.commands.command import command, group, positive, settings


def add(commands) -> None:
    kinds = group(
        commands,
        "bench",
        "measure performance ratios on this machine",
        "vilg bench attention",
        "Measure performance relative to a baseline in the same process.",
    )
    attention = command(
        kinds,
        "attention",
        "the sparse operator compared with block-wise and dense attention",
        "vilg bench attention --heads 16 --grid 32 --json",
        _bench_attention,
    )
    for name, number, what in (
        ("batch", 1, "sequences"),
        ("heads", 16, "attention heads"),
        ("head-size", 64, "elements of a head"),
        ("text", 64, "text positions"),
        ("grid", 32, "image tokens on each side"),
        ("kernel", 11, "side of the conv window"),
        ("repeats", 10, "calls, of which the fastest counts"),
    ):
        attention.add_argument(f"--{name}", type=positive, default=number, metavar="N", help=f"{what} ({number})")
    attention.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    train = command(
        kinds,
        "train",
        "training steps with every attention backend",
        "vilg bench train model.layers=2 model.hidden=4096 model.heads=64",
        _bench_train,
    )
    settings(train, "settings of a run (8 layers of 512)")
    train.add_argument("--steps", type=positive, default=3, metavar="N", help="steps, of which the fastest counts (3)")
    train.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    checkpoint = command(
        kinds,
        "checkpoint",
        "saving and loading compared with plain file writing, and how long training waits",
        "vilg bench checkpoint --megabytes 500 --json",
        _bench_checkpoint,
    )
    checkpoint.add_argument(
        "--folder", type=Path, default=Path("."), metavar="DIR", help="folder to write to (current folder)"
    )
    checkpoint.add_argument("--megabytes", type=positive, default=500, metavar="N", help="MB to write (500)")
    checkpoint.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    generate = command(
        kinds,
        "generate",
        "seconds per image without caches, with dense and with windowed caches",
        "vilg bench generate --json",
        _bench_generate,
    )
    settings(generate, "settings of a run (8 layers of 512)")
    generate.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    serve = command(
        kinds,
        "serve",
        "concurrent clients compared with one client, over HTTP on this machine",
        "vilg bench serve --export emoji-export --requests 64 --together 16 --json",
        _bench_serve,
    )
    serve.add_argument("--export", type=Path, required=True, metavar="DIR", help="folder that `vilg export` wrote")
    serve.add_argument("--requests", type=int, default=64, metavar="N", help="requests with concurrent clients (64)")
    serve.add_argument("--together", type=int, default=16, metavar="N", help="number of concurrent clients (16)")
    serve.add_argument("--seconds", type=int, default=300, metavar="N", help="time limit of the benchmark (300)")
    serve.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    tokenize = command(
        kinds,
        "tokenize",
        "images per second that the image tokenizers encode",
        "vilg bench tokenize --sizes 64 256 --json",
        _bench_tokenize,
    )
    tokenize.add_argument(
        "--sizes", type=positive, nargs="+", default=[64, 256], metavar="N", help="image sides in pixels (64 256)"
    )
    tokenize.add_argument("--batch", type=positive, default=4, metavar="N", help="images in a batch (4)")
    tokenize.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="batches, of which the fastest counts (3)"
    )
    tokenize.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _bench_tokenize(options) -> None:
    from vilg.bench import tokenize

    result = tokenize.bench(options.sizes, options.batch, options.repeats)
    print(json.dumps(result) if options.json else tokenize.table(result))


def _bench_attention(options) -> None:
    from vilg.bench import attention

    shape = attention.Shape(
        options.batch, options.heads, options.head_size, options.text, (options.grid, options.grid), options.kernel
    )
    result = attention.bench(shape, options.repeats)
    print(json.dumps(result) if options.json else attention.table(result))


def _bench_generate(options) -> None:
    from vilg.bench import generate

    result = generate.bench(_bench_settings(options))
    print(json.dumps(result) if options.json else generate.table(result))


def _bench_settings(options) -> config.Pretraining:
    from vilg.bench.train import DEFAULTS

    return config.resolve(
        config.Pretraining, options.config, [*([] if options.config else DEFAULTS), *options.overrides]
    )


def _bench_train(options) -> None:
    from vilg.bench import train

    result = train.bench(_bench_settings(options), options.steps)
    print(json.dumps(result) if options.json else train.table(result))


def _bench_checkpoint(options) -> None:
    from vilg.bench import checkpoint

    result = checkpoint.bench(options.folder, options.megabytes)
    print(json.dumps(result) if options.json else checkpoint.table(result))


def _bench_serve(options) -> None:
    from vilg.bench import serve

    result = serve.bench(options.export, options.requests, options.together, options.seconds)
    print(json.dumps(result) if options.json else serve.table(result))
