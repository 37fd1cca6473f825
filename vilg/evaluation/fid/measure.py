"""`vilg evaluate fid`: distances between two sets of images."""

import io
import logging
import zipfile
from pathlib import Path

import numpy as np

from vilg.distributed.world import World
from vilg.errors import UserError, os_reason
from vilg.evaluation.fid.distances import Statistics, frechet, frechet_infinity, kernel_distance, statistics
from vilg.evaluation.fid.features import FeatureExtractor, features
from vilg.evaluation.fid.image_sets import open_images
from vilg.evaluation.fid.inception import FEATURES
from vilg.evaluation.fid.protocols import PROTOCOLS
from vilg.files import write_atomically

log = logging.getLogger(__name__)


def measure(
    images: str,
    reference: str,
    protocol: str,
    file: Path,
    world: World,
    cache: Path | None = None,
    save_statistics: Path | None = None,
) -> dict:
    """The distances of `images` from `reference`, and how they were measured. All ranks call this.

    images, reference: see `open_images`; the reference may be statistics in an npz file instead, as pytorch-fid writes
    them (mu, sigma), for which there is no KID. save_statistics: a file for those of the reference. Raises UserError.
    """
    with world.fail_together():
        generated = open_images(images)
        known = read_statistics(Path(reference)) if reference.endswith(".npz") else None
        real = None if known else open_images(reference)
        for one in (generated, real):
            if one is not None and one.count < 2:
                raise UserError(f"{one.name}: one image has no covariance; at least two are needed")
        extract = FeatureExtractor(protocol, file)
    ours = features(generated, extract, world, cache)
    theirs = None if real is None else features(real, extract, world, cache)
    target = known if theirs is None else statistics(theirs)
    assert target is not None
    if world.is_rank_zero:
        for name, count in ((images, len(ours)), (reference, target.images)):
            if count is not None and count <= FEATURES:
                log.warning(
                    "%s: %d images for %d features; the FID is far too large then, see FID_infinity and KID",
                    *(name, count, FEATURES),
                )
        if save_statistics:
            write_statistics(save_statistics, target)
    result: dict = {"FID": frechet(statistics(ours), target), "FID_infinity": frechet_infinity(ours, target)}
    if theirs is not None:
        result["KID_x1000"], result["KID_x1000_deviation"] = kernel_distance(ours, theirs)
    return result | {
        "protocol": protocol,
        "preprocessing": PROTOCOLS[protocol].description,
        "weights_sha256": extract.weights_hash,
        "images": len(ours),
        "reference": reference,
        "reference_images": target.images,
    }


def read_statistics(file: Path) -> Statistics:
    """Statistics in the format of pytorch-fid: mu [2048] and sigma [2048, 2048]. Raises UserError."""
    try:
        with np.load(file) as stored:
            count = int(stored["images"]) if "images" in stored else None
            found = Statistics(stored["mu"].astype(np.float64), stored["sigma"].astype(np.float64), count)
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError):
        raise UserError(f"{file}: not statistics of pytorch-fid (mu and sigma)") from None
    if found.mean.shape != (FEATURES,) or found.covariance.shape != (FEATURES, FEATURES):
        raise UserError(
            f"{file}: mu {list(found.mean.shape)} and sigma {list(found.covariance.shape)}; {FEATURES} wanted"
        )
    if not (np.isfinite(found.mean).all() and np.isfinite(found.covariance).all()):
        raise UserError(f"{file}: mu or sigma is not finite")
    return found


def write_statistics(file: Path, found: Statistics) -> None:
    """Write statistics that pytorch-fid can read."""
    buffer = io.BytesIO()
    arrays = {"mu": found.mean, "sigma": found.covariance}
    if found.images is not None:
        arrays["images"] = np.array(found.images)
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(file, buffer.getvalue())
