"""Derive vilg/data/annotations/zh.tsv from Unicode CLDR.

    npm pack cldr-annotations-full@48.2.0 cldr-annotations-derived-full@48.2.0   # and unpack both
    python tools/derive_annotations.py DIR_OF_FIRST/package DIR_OF_SECOND/package

One line for each fully qualified emoji without a skin tone: the emoji (variation selectors removed), its name and its
search keywords, separated by tabs, in Simplified Chinese.
"""

import json
import sys
from pathlib import Path

import emoji

from vilg.data.openmoji import FULLY_QUALIFIED, SKIN_TONE, VARIATION_SELECTOR

TARGET = Path(__file__).parent.parent / "vilg" / "data" / "annotations" / "zh.tsv"


def annotations(package: Path) -> dict[str, dict[str, list[str]]]:
    """The annotations of one CLDR package: {emoji: {"tts": [name], "default": keywords}}."""
    kind = "annotationsDerived" if (package / "annotationsDerived").is_dir() else "annotations"
    return json.loads((package / kind / "zh" / "annotations.json").read_text())[kind]["annotations"]


def main(packages: list[Path]) -> None:
    text_keywords = {
        text.replace(VARIATION_SELECTOR, "")
        for text, entry in emoji.EMOJI_DATA.items()
        if entry["status"] == FULLY_QUALIFIED
    }
    table = {}
    for package in packages:
        for text, entry in annotations(package).items():
            text = text.replace(VARIATION_SELECTOR, "")
            if text in text_keywords and "tts" in entry and not SKIN_TONE.search(text):
                table.setdefault(text, entry["tts"] + entry.get("default", []))
    TARGET.write_text("".join("\t".join([text, *words]) + "\n" for text, words in sorted(table.items())), "utf-8")
    print(f"{TARGET}: {len(table)} emoji")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main([Path(argument) for argument in sys.argv[1:]])
