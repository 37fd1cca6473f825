"""The eleven styles: where their drawings come from, and how a caption names them.

A phrase describes what the drawings look like, because nobody who writes a prompt knows the names of emoji sets.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """One set of drawings.

    name: of the npm package @iconify-json/NAME. version: of the package that the splits are made for. phrases: Chinese
    descriptions, the usual one first. family: styles of one family show the same drawing with other colours.
    """

    name: str
    version: str
    phrases: tuple[str, ...]
    family: str

    @property
    def package(self) -> str:
        return f"@iconify-json/{self.name}"


STYLES = (
    Style("openmoji", "1.2.29", ("描边漫画", "黑边彩绘"), "openmoji"),
    Style("twemoji", "1.2.5", ("扁平", "简洁色块"), "twemoji"),
    Style("noto", "1.2.9", ("细腻渐变", "精细彩绘"), "noto"),
    Style("noto-v1", "1.2.5", ("圆胖卡通", "软糖"), "noto-v1"),
    Style("fluent-emoji", "1.2.7", ("立体", "三维"), "fluent"),
    Style("fluent-emoji-flat", "1.2.6", ("鲜艳平涂", "亮色平面"), "fluent"),
    Style("fluent-emoji-high-contrast", "1.2.6", ("粗线黑白", "黑白粗描"), "fluent"),
    Style("emojione", "1.2.3", ("柔和彩色", "柔色"), "emojione"),
    Style("emojione-v1", "1.2.3", ("复古灰调", "旧式"), "emojione-v1"),
    Style("emojione-monotone", "1.2.1", ("黑白剪影", "黑白版画"), "emojione"),
    Style("fxemoji", "1.2.2", ("清新淡彩", "淡彩"), "fxemoji"),
)
COMMONEST = STYLES[0]  # has a drawing of every emoji; a caption without a style means this one

BY_NAME = {style.name: style for style in STYLES}
