"""`vilg data emoji --styles`: renders all drawings and writes them as shards."""

import io
import json
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from vilg.data.bad_samples import BadSampleError, BadSamples
from vilg.data.styles import packages
from vilg.data.styles.captions import captions_of
from vilg.data.styles.catalogue import BY_NAME
from vilg.data.styles.equal_pictures import equal_pairs, reduced
from vilg.data.styles.names import Emoji, all_emoji
from vilg.data.styles.packages import Package
from vilg.data.styles.rendering import render
from vilg.data.styles.splits import COMBINATION, PARTS, Picture, has_sibling_in_training, mixed, split
from vilg.errors import UserError
from vilg.progress import Progress

SAMPLES_PER_SHARD = 2000
LICENCES = "LICENCES.md"


def build(out: Path, packages_folder: Path | None = None, max_bad_samples: int = 0) -> dict[str, int]:
    """Write `train-*.tar`, `heldout-combination-*.tar`, `heldout-emoji-*.tar` and a table of licences to `out`.

    packages_folder: has iconify-json-*/package; by default they are downloaded to out/packages. Returns the number of
    samples in each part. Raises UserError, also for more than `max_bad_samples` drawings that cannot be rendered.
    """
    if any(out.glob("*.tar")):
        raise UserError(f"{out}: already contains shards")
    emoji = all_emoji()
    if packages_folder is None:
        packages_folder = out / "packages"
        packages.fetch(packages_folder)
    sets = packages.read(packages_folder, emoji)
    pictures = _render(sets, BadSamples(max_bad_samples))
    order = list(pictures)
    equal = equal_pairs([reduced(Image.open(io.BytesIO(pictures[picture]))) for picture in order])
    parts = split(order, [(order[i], order[j]) for i, j in equal])
    out.mkdir(parents=True, exist_ok=True)
    # Shards appear when all are complete, so that an interrupted command can simply be run again.
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        counts = _write(Path(scratch), pictures, parts, {one.code_points: one for one in emoji})
        (out / LICENCES).write_text(licences(sets), "utf-8")
        for shard in sorted(Path(scratch).glob("*.tar")):
            shutil.move(shard, out)
    return counts


def _render(sets: list[Package], bad: BadSamples) -> dict[Picture, bytes]:
    """{picture: PNG} of all drawings that can be rendered."""
    found: dict[Picture, bytes] = {}
    with Progress("drawings", sum(len(one.svgs) for one in sets)) as progress:
        for one in sets:
            for code_points, svg in one.svgs.items():
                progress.advance()
                try:
                    image = render(svg)
                except BadSampleError as error:
                    bad.add(f"{one.style.name} {code_points}", str(error))
                    continue
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                found[code_points, one.style.name] = buffer.getvalue()
    return found


def _write(
    folder: Path, pictures: dict[Picture, bytes], parts: dict[Picture, str], emoji: dict[str, Emoji]
) -> dict[str, int]:
    from webdataset import ShardWriter

    counts = dict.fromkeys(PARTS, 0)
    with ExitStack() as stack:
        writers = {
            part: stack.enter_context(
                ShardWriter(str(folder / f"{part}-%06d.tar"), maxcount=SAMPLES_PER_SHARD, verbose=0)
            )
            for part in PARTS
        }
        for picture, png in sorted(pictures.items(), key=lambda item: mixed(item[0])):
            (code_points, style), part = picture, parts[picture]
            one = emoji[code_points]
            description: dict = {"captions": captions_of(one, BY_NAME[style])}
            description |= {"emoji": one.text, "names": one.names, "style": style}
            if part == COMBINATION:
                description["sibling_in_train"] = has_sibling_in_training(picture, parts)
            text = json.dumps(description, ensure_ascii=False).encode()
            writers[part].write({"__key__": f"{code_points}_{style}", "png": png, "json": text})
            counts[part] += 1
    return counts


def licences(sets: list[Package]) -> str:
    """A table of the sources and licences, in Markdown."""
    rows = [
        f"| {one.style.name} | {one.title} | {one.author} | [{one.licence}]({one.url}) | {one.style.package} "
        f"{one.version} | {len(one.svgs)} |"
        for one in sets
    ]
    return "\n".join(
        [
            "# Licences of the drawings in this folder",
            "",
            "Rendered to 128 x 128 pixels on white. Names and keywords: Unicode CLDR (Unicode licence).",
            "",
            "| style | set | by | licence | npm package | drawings |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
