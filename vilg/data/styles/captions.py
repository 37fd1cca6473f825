"""Captions that say a thing and a style, and the way back from a caption to both."""

import unicodedata

from vilg.data.styles.catalogue import COMMONEST, STYLES, Style
from vilg.data.styles.names import Emoji

KEYWORDS = 3  # of CLDR, in the longest caption
_TEMPLATES = ("{phrase}风格的{name}", "{name}，{phrase}风格", "用{phrase}风格画的{name}", "{name}，{phrase}")


def prompt(name: str, style: Style) -> str:
    """The caption from which the measures draw: 立体风格的红苹果."""
    return _TEMPLATES[0].format(phrase=style.phrases[0], name=name)


def captions_of(emoji: Emoji, style: Style) -> list[str]:
    """All captions of the drawing of an emoji in a style. In the commonest style, some do not name the style."""
    captions = [
        template.format(phrase=phrase, name=name)
        for name in emoji.names
        for phrase in style.phrases
        for template in _TEMPLATES
    ]
    if style is COMMONEST:
        keywords = "，".join([emoji.names[0], *emoji.keywords[:KEYWORDS]])
        # As many as those with the style, so that a drawn caption has none in half of the cases.
        captions += (list(dict.fromkeys([*emoji.names, keywords])) * len(captions))[: len(captions)]
    return [unicodedata.normalize("NFC", caption) for caption in captions]


def parse(caption: str) -> tuple[str, Style]:
    """(name, style) of a caption. Without a style it is the commonest one, and what follows a comma are keywords."""
    for style in STYLES:
        for phrase in style.phrases:
            for template in _TEMPLATES:
                before, after = template.replace("{phrase}", phrase).split("{name}")
                if caption.startswith(before) and caption.endswith(after):
                    return caption.removeprefix(before).removesuffix(after), style
    return caption.partition("，")[0], COMMONEST
