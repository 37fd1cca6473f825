"""`vilg generate`, `vilg caption` and `vilg export`."""

import json
import logging
import os
import sys
from pathlib import Path

from vilg.commands.command import command, interrupt_on_sigterm, overwrite_option
from vilg.commands.model_options import checkpoint_options, given_sampler, load_pipeline, model_and_sampling
from vilg.config.distributed import DTYPES

log = logging.getLogger(__name__)


def add(commands) -> None:
    _generate(commands)
    _caption(commands)
    _export(commands)


def _generate(commands) -> None:
    parser = command(
        commands,
        "generate",
        "generate images from text",
        "vilg generate --checkpoint runs/emoji --text 红苹果 -n 4 --out x.png",
        _run_generate,
    )
    model_and_sampling(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--text",
        type=_text,
        nargs="+",
        metavar="TEXT",
        help="text to generate images for; several texts become rows of one sheet",
    )
    what.add_argument("--texts", type=Path, metavar="FILE", help="file with one text on each line")
    parser.add_argument("-n", type=int, default=1, metavar="N", help="number of images for each text (1)")
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        metavar="SCALE",
        help="scale of classifier-free guidance, for models trained with train.caption_dropout (1.0: off)",
    )
    parser.add_argument(
        "--best-of",
        type=int,
        default=0,
        metavar="N",
        help="generate N images and keep the best by log p(text | image)",
    )
    parser.add_argument(
        "--scorer",
        metavar="MODULE:FUNCTION",
        help="Python function that ranks images for --best-of: (texts, images [B, 3, H, W] in [0, 1]) -> scores; its "
        "module may be in the current folder",
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="complete this image, of which --keep-rows stay")
    parser.add_argument(
        "--keep-rows", type=int, default=0, metavar="N", help="number of upper rows of codes to keep from --image"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE|DIR",
        help="image file to write, or without a suffix a folder with one file per image",
    )
    overwrite_option(parser)
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run into a folder")
    parser.add_argument("--truncate", action="store_true", help="truncate texts that are too long, with a warning")


def _caption(commands) -> None:
    parser = command(
        commands,
        "caption",
        "describe images in Chinese",
        "vilg caption --checkpoint runs/emoji --image x.png\n"
        "  vilg caption --export emoji-export --image folder --beams 5 -n 3 --json",
        _run_caption,
    )
    model_and_sampling(parser)
    # Without any of these options, decoding is greedy.
    parser.set_defaults(temperature=None, top_k=None, top_p=None, seed=None)
    parser.add_argument(
        "--image", type=Path, nargs="+", required=True, metavar="FILE|DIR", help="image files, and folders of them"
    )
    parser.add_argument("-n", type=int, default=1, metavar="N", help="number of captions for each image (1)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object for each image, with the log-likelihood of each caption in nats",
    )
    parser.add_argument(
        "--beams",
        type=int,
        default=0,
        metavar="N",
        help="beam search with N beams (0: greedy decoding, or sampling with --temperature, --top-k, ..)",
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        default=1.0,
        metavar="P",
        help="for beam search: 0 prefers short captions, 1 compares means (1.0)",
    )
    parser.add_argument("--prefix", type=_text, default="", metavar="TEXT", help="text that every caption begins with")


def _text(argument: str) -> str:
    """An argument as UTF-8 text, also in a locale with another encoding."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:  # reported with the text
        return argument


def _run_generate(options) -> None:
    from vilg.distributed.world import World
    from vilg.files import printable
    from vilg.generation.output import GenerationRequest, generate, read_texts
    from vilg.generation.texts import shortened
    from vilg.generation.writers import open_writer

    request = GenerationRequest(
        read_texts(options.texts) if options.texts else options.text,
        options.n,
        options.best_of,
        options.guidance,
        options.image,
        options.keep_rows,
        options.scorer,
        given_sampler(options, options.greedy),
        options.truncate,
    )
    if options.greedy and options.n > 1:
        log.warning("--greedy: all %d images of a text are equal", options.n)
    world = World()
    with world.fail_together():
        share = (world.rank, world.ranks)
        writer = open_writer(options.out, request.texts, request.count, options.overwrite, options.resume, share)
        pipeline = load_pipeline(options)
    kind = options.scorer or "log p(text | image)"
    interrupt_on_sigterm()
    try:
        for text, generated in generate(pipeline, request, writer, world):
            assert generated.scores is not None
            scores = ", ".join(f"{score:.2f}" for score in generated.scores[0])
            print(f"{printable(options.out)}: {shortened(text)}: {kind} {scores}", flush=True)
    except KeyboardInterrupt:
        if options.out.is_dir():
            print(f"{printable(options.out)}: --resume continues after the texts above", file=sys.stderr)
        raise


def _run_caption(options) -> int:
    from vilg.errors import UserError
    from vilg.files import printable
    from vilg.generation.caption_files import caption_files, find_images

    random = any(getattr(options, name) is not None for name in ("seed", "temperature", "top_k", "top_p"))
    sampler = given_sampler(options, options.greedy or not (random or options.beams))
    unreadable = 0
    files = find_images(options.image)
    for file, captions in caption_files(
        load_pipeline(options), files, sampler, options.beams, options.length_penalty, options.prefix, options.n
    ):
        if isinstance(captions, UserError):
            unreadable += 1
            print(f"vilg: {captions}", file=sys.stderr)
        elif options.json:
            row = {"image": printable(file), "captions": [caption._asdict() for caption in captions]}
            print(json.dumps(row, ensure_ascii=False), flush=True)
        else:
            for caption in captions:
                print(f"{printable(file)}\t{caption.text}", flush=True)
    if unreadable:
        print(f"vilg: {unreadable} of {len(files)} files could not be read", file=sys.stderr)
    return 1 if unreadable else 0


def _export(commands) -> None:
    parser = command(
        commands,
        "export",
        "export a checkpoint to inference models, and compare them with it",
        "vilg export --checkpoint runs/emoji --out emoji-export\n"
        "  vilg generate --export emoji-export --text 红苹果 --out x.png",
        _run_export,
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR|URL",
        help="a step-* folder, or the folder of a run for its newest checkpoint; of any world size",
    )
    checkpoint_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder to write")
    parser.add_argument(
        "--portable",
        action="store_true",
        help="do not use the compiled operator, for machines without a compiler",
    )
    parser.add_argument(
        "--precision",
        choices=DTYPES,
        default="fp32",
        help="of the transformer (fp32); 16 bits halve its size and the time to read it for each token",
    )


def _run_export(options) -> None:
    from vilg.export.exporter import export

    interrupt_on_sigterm()
    manifest = export(
        options.checkpoint,
        options.out,
        options.portable,
        options.vocab,
        options.image_tokenizer,
        options.raw_weights,
        options.precision,
    )
    size = sum(file.size for file in manifest.files.values())
    print(
        f"{options.out}: {len(manifest.files)} files, {size / 1e6:.1f} MB, {manifest.precision}, "
        f"{'with' if manifest.operator else 'without'} the operator; difference to the checkpoint: "
        f"{manifest.self_test['logits']:.1e} of the largest logit, {manifest.self_test['pixels']:.1e} per pixel"
    )
