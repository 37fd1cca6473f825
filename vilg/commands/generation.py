"""`vilg generate`, `vilg caption` and `vilg export`."""

import argparse
from pathlib import Path

from vilg.commands.command import command


def add(commands) -> None:
    _generate(commands)
    _caption(commands)
    _export(commands)


def _generate(commands) -> None:
    made = command(
        commands,
        "generate",
        "draw pictures of a text",
        "vilg generate --checkpoint runs/emoji --text 红苹果 -n 4 --out x.png",
        _run_generate,
    )
    _sampling(made)
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", nargs="+", metavar="TEXT", help="what to draw; several texts become rows of one sheet")
    what.add_argument("--texts", type=Path, metavar="FILE", help="a file with a text on each line")
    made.add_argument("-n", type=int, default=1, metavar="N", help="how many pictures of each text (1)")
    made.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        metavar="SCALE",
        help="above 1 nearer to the text, if the model was trained with train.caption_dropout (1.0)",
    )
    made.add_argument(
        "--best-of",
        type=int,
        default=0,
        metavar="N",
        help="draw N and keep those from which the model reads the text most easily",
    )
    made.add_argument(
        "--scorer",
        metavar="MODULE:FUNCTION",
        help="for --best-of: a function of Python, (texts, pictures [B, 3, H, W] in [0, 1]) -> scores; its "
        "module may lie in the current folder",
    )
    made.add_argument("--image", type=Path, metavar="FILE", help="complete this picture ..")
    made.add_argument("--keep-rows", type=int, default=0, metavar="N", help=".. whose upper N rows of codes stay")
    made.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE|DIR",
        help="the picture to write, or without a suffix a folder for one file a picture",
    )


def _caption(commands) -> None:
    made = command(
        commands,
        "caption",
        "caption_files pictures",
        "vilg caption --checkpoint runs/emoji --image x.png --greedy",
        _run_caption,
    )
    _sampling(made)
    made.add_argument("--image", type=Path, nargs="+", required=True, metavar="FILE", help="the pictures")
    made.add_argument(
        "--beams",
        type=int,
        default=0,
        metavar="N",
        help="search with N beams, without chance, instead of choosing word by word (0)",
    )
    made.add_argument(
        "--length-penalty",
        type=float,
        default=1.0,
        metavar="P",
        help="of beam search: 0 prefers short captions, 1 compares means (1.0)",
    )
    made.add_argument("--prefix", default="", metavar="TEXT", help="what every caption begins with")


def _sampling(made: argparse.ArgumentParser) -> None:
    model = made.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--checkpoint", metavar="DIR|URL", help="a step-* directory, or a run's directory for its newest"
    )
    model.add_argument("--export", type=Path, metavar="DIR", help="what `vilg export` wrote")
    made.add_argument("--temperature", type=float, default=1.0, help="below 1 is safer, above 1 wilder (1.0)")
    made.add_argument("--top-k", type=int, default=0, metavar="K", help="choose among the K likeliest (0: all)")
    made.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="choose among the likeliest that together reach P (1.0: all)",
    )
    made.add_argument("--greedy", action="store_true", help="always the likeliest; nothing is left to chance")
    made.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (0)")


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

    wish = GenerationRequest(
        read_texts(options.texts) if options.texts else options.text,
        options.n,
        options.best_of,
        options.guidance,
        options.image,
        options.keep_rows,
        options.scorer,
        _sampler(options),
    )
    drawn = generate(_pipeline(options), wish, options.out)
    kind = f"{options.scorer} says" if options.scorer else "log p(text | image)"
    for text, scores in zip(wish.texts, drawn.scores):
        print(f"{options.out}: {text}: {kind} {', '.join(f'{score:.2f}' for score in scores)}")


def _run_caption(options) -> None:
    from vilg.generation.output import caption_files

    texts = caption_files(
        _pipeline(options), options.image, _sampler(options), options.beams, options.length_penalty, options.prefix
    )
    for file, text in zip(options.image, texts):
        print(f"{file}\t{text}")


def _export(commands) -> None:
    made = command(
        commands,
        "export",
        "write inference models of a checkpoint, and compare them with it",
        "vilg export --checkpoint runs/emoji --out emoji-export\n"
        "  vilg generate --export emoji-export --text 红苹果 --out x.png",
        _run_export,
    )
    made.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR|URL",
        help="a step-* directory, or a run's directory for its newest; of any world size",
    )
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that is not there yet")
    made.add_argument(
        "--portable",
        action="store_true",
        help="without the compiled operator: for machines that have Paddle and no compiler",
    )


def _run_export(options) -> None:
    from vilg.export.exporter import export

    made = export(options.checkpoint, options.out, options.portable)
    size = sum(file.size for file in made.files.values())
    print(
        f"{options.out}: {len(made.files)} files, {size / 1e6:.1f} MB, "
        f"{'with' if made.operator else 'without'} the operator; differs from the checkpoint by "
        f"{made.self_test['logits']:.1e} of the largest logit and {made.self_test['pixels']:.1e} a pixel"
    )
