"""The emoji of the data set: their code points, and their names in Chinese and English."""

import re
from dataclasses import dataclass

from vilg.data.openmoji import FULLY_QUALIFIED, SKIN_TONE, VARIATION_SELECTOR, read_annotations
from vilg.errors import UserError

_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}|\U0001f3f4[\U000e0020-\U000e007f]+")  # of a country or of a part of one
_HAIR = ("秃顶", "卷发", "红发", "白发")
_CONGOS = ("布", "金")  # for Brazzaville and Kinshasa


@dataclass(frozen=True)
class Emoji:
    """text: the characters, without variation selectors. names: in Chinese, the usual one first. keywords: from CLDR.
    slugs: English names as icon sets write them.
    """

    text: str
    names: tuple[str, ...]
    keywords: tuple[str, ...]
    slugs: tuple[str, ...]

    @property
    def code_points(self) -> str:
        """For example 1f468-200d-1f466."""
        return "-".join(f"{ord(character):x}" for character in self.text)


def all_emoji() -> list[Emoji]:
    """All emoji with a Chinese name, without variants in other skin tones. Raises UserError without the package."""
    try:
        import emoji
    except ImportError as error:
        raise UserError(f"the emoji data set needs the package emoji: pip install 'vilg[demo]' ({error})") from None
    emoji.config.load_language("zh")
    annotations = read_annotations()
    found = []
    for characters, entry in emoji.EMOJI_DATA.items():
        if "zh" not in entry or entry["status"] != FULLY_QUALIFIED or SKIN_TONE.search(characters):
            continue
        text = characters.replace(VARIATION_SELECTOR, "")
        name = written_name(text, entry["zh"].strip(":"))
        of_cldr, *keywords = annotations.get(text, [name])
        names = (name,) if of_cldr.startswith("旗: ") or "_" in entry["zh"] else tuple(dict.fromkeys((name, of_cldr)))
        slugs = tuple(slug(english) for english in (entry["en"], *entry.get("alias", [])))
        found.append(Emoji(text, names, tuple(word for word in keywords if word not in names), slugs))
    return found


def written_name(text: str, name: str) -> str:
    """The name as people write it. The package writes 男人_红发 for 红发的男人, and a flag as its country."""
    first, _, second = name.partition("_")
    if _FLAG.fullmatch(text):
        return (f"{first}（{second}）" if second in _CONGOS else name.replace("_", "")) + "的旗帜"
    if not second:
        return name
    if second in _HAIR:
        return f"{second}的{first}"
    return f"{first}{second}" if first == "按键" else f"{first}：{second}"


def slug(name: str) -> str:
    """:red_heart: -> red-heart."""
    return re.sub(r"[^a-z0-9]+", "-", name.strip(":").lower().replace("’", "").replace("'", "")).strip("-")
