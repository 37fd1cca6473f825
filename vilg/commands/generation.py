"""`vilg generate`, `vilg caption` and `vilg export`."""

import argparse
from pathlib import Path

from vilg.commands.command import command


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
    _sampling(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--text", nargs="+", metavar="TEXT", help="text to generate images for; several texts become rows of one sheet"
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


def _caption(commands) -> None:
    parser = command(
        commands,
        "caption",
        "describe images in Chinese",
        "vilg caption --checkpoint runs/emoji --image x.png --greedy",
        _run_caption,
    )
    _sampling(parser)
    parser.add_argument("--image", type=Path, nargs="+", required=True, metavar="FILE", help="image files")
    parser.add_argument(
        "--beams",
        type=int,
        default=0,
        metavar="N",
        help="beam search with N beams instead of sampling (0: sampling)",
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        default=1.0,
        metavar="P",
        help="for beam search: 0 prefers short captions, 1 compares means (1.0)",
    )
    parser.add_argument("--prefix", default="", metavar="TEXT", help="text that every caption begins with")


def _sampling(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--checkpoint", metavar="DIR|URL", help="a step-* folder, or the folder of a run for its newest checkpoint"
    )
    model.add_argument("--export", type=Path, metavar="DIR", help="folder that `vilg export` wrote")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="below 1: more likely tokens; above 1: more variety (1.0)"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="sample from the K most likely tokens (0: all)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the most likely tokens with total probability P (1.0: all)",
    )
    parser.add_argument("--greedy", action="store_true", help="always choose the most likely token")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random generator (0)")


def _sampler(options):
    from vilg.generation.sampling import Sampler

    return Sampler(options.seed, options.temperature, options.top_k, options.greedy, options.top_p)


def _pipeline(options):
    if options.export:
        from vilg.export import Predictor

        return Predictor(options.export)
    from vilg.generation.from_checkpoint import load_checkpoint_pipeline

    return load_checkpoint_pipeline(options.checkpoint)


def _run_generate(options) -> None:
    from vilg.generation.output import GenerationRequest, generate, read_texts

    request = GenerationRequest(
        read_texts(options.texts) if options.texts else options.text,
        options.n,
        options.best_of,
        options.guidance,
        options.image,
        options.keep_rows,
        options.scorer,
        _sampler(options),
    )
    generated = generate(_pipeline(options), request, options.out)
    kind = options.scorer if options.scorer else "log p(text | image)"
    assert generated.scores is not None
    for text, scores in zip(request.texts, generated.scores):
        print(f"{options.out}: {text}: {kind} {', '.join(f'{score:.2f}' for score in scores)}")


def _run_caption(options) -> None:
    from vilg.generation.output import caption_files

    texts = caption_files(
        _pipeline(options), options.image, _sampler(options), options.beams, options.length_penalty, options.prefix
    )
    for file, text in zip(options.image, texts):
        print(f"{file}\t{text}")


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
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder to write")
    parser.add_argument(
        "--portable",
        action="store_true",
        help="do not use the compiled operator, for machines without a compiler",
    )


def _run_export(options) -> None:
    from vilg.export.exporter import export

    manifest = export(options.checkpoint, options.out, options.portable)
    size = sum(file.size for file in manifest.files.values())
    print(
        f"{options.out}: {len(manifest.files)} files, {size / 1e6:.1f} MB, "
        f"{'with' if manifest.operator else 'without'} the operator; difference to the checkpoint: "
        f"{manifest.self_test['logits']:.1e} of the largest logit, {manifest.self_test['pixels']:.1e} per pixel"
    )
