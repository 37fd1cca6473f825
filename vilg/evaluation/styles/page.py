"""A page that shows the results: the measures, a matrix of things and styles, and what fails."""

import html
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vilg.data.styles.captions import prompt
from vilg.data.styles.catalogue import STYLES
from vilg.evaluation.page_parts import CSS, image_tag, loss_curves
from vilg.evaluation.styles.measures import Model, Result
from vilg.evaluation.styles.pictures import NEW, RECOLOURED, StylePicture
from vilg.files import write_atomically

EMOJI_SHOWN = 12  # rows of the matrix
EXAMPLES_SHOWN = 24
_CSS = """
table.matrix img { width: 56px; height: 56px }
table.matrix td, table.matrix th { padding: 2px; text-align: center; font-size: 13px; font-weight: normal }
table.matrix td.held { outline: 3px solid #d22; outline-offset: -2px }
.wrong { background: #fdecec }
th { text-align: left; padding: 0 1em 0 0 }
"""


def write_page(
    file: Path,
    origin: str,
    model: Model,
    pictures: Sequence[StylePicture],
    results: dict[str, Result],
    run: Path | None,
) -> None:
    """Write the page.

    origin: of the model, for the heading. pictures: all real ones. run: folder of the run, for its losses.
    """
    curves = f"<h2>Losses</h2>{_about_losses()}{loss_curves(run)}" if run else ""
    body = (
        f"<h1>Things and styles: {html.escape(origin)}</h1>{_measures(results)}{_matrix(model, pictures, results)}"
        f"{_examples(results, pictures)}{_by_style(results)}{_captions(results)}{curves}"
    )
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>vilg: things and styles</title>\n'
        f"<style>{CSS}{_CSS}</style>\n{body}\n"
        "<p><small>Drawings of OpenMoji and EmojiOne 1 (CC BY-SA 4.0), Twemoji, EmojiOne and its monotone (CC BY 4.0), "
        "Noto, Noto 1 and Firefox OS Emoji (Apache 2.0), Fluent Emoji (MIT). This page has the licence CC BY-SA 4.0."
        "</small></p>\n</html>\n"
    )
    write_atomically(file, page.encode())


def _measures(results: dict[str, Result]) -> str:
    rows = ""
    for name, result in results.items():
        shares = result.shares()
        cells = "".join(
            f"<td>{shares[column]:.0%}" if column in shares else "<td>"
            for column in ("emoji", "style", "both", "caption_name", "caption_style", "caption_both")
        )
        rows += f"<tr><th>{html.escape(name)}<td>{shares['pictures']}{cells}"
    return (
        "<p>A drawing is right in emoji or style if the real picture nearest to it is, by perceptual features (VGG16, "
        "LPIPS). A caption is right if it says the name, or the style.</p><table><tr><th><th>pictures<th>drawings: "
        f"emoji<th>style<th>both<th>captions: name<th>style<th>both{rows}</table>"
    )


def _matrix(model: Model, pictures: Sequence[StylePicture], results: dict[str, Result]) -> str:
    """Drawings of some emoji in all styles."""
    by_emoji: dict[str, dict[str, StylePicture]] = defaultdict(dict)
    for picture in pictures:
        by_emoji[picture.emoji][picture.style.name] = picture
    with_held_out = {picture.emoji: picture for picture in results[NEW].wanted}.values()
    candidates = sorted(with_held_out, key=lambda picture: -len(by_emoji[picture.emoji]))
    most = [picture for picture in candidates if len(by_emoji[picture.emoji]) >= len(STYLES) - 1] or candidates
    chosen = most[:: max(1, len(most) // EMOJI_SHOWN)][:EMOJI_SHOWN]
    held_out = {
        (picture.emoji, picture.style.name)
        for name in (NEW, RECOLOURED)
        if name in results
        for picture in results[name].wanted
    }
    texts = [prompt(picture.names[0], style) for picture in chosen for style in STYLES]
    drawings = model.draw(texts).reshape([len(chosen), len(STYLES), 3, *results[NEW].drawings.shape[2:]])
    head = "".join(f"<th>{style.phrases[0]}" for style in STYLES)
    rows = ""
    for picture, row in zip(chosen, drawings):
        cells, real = "", ""
        for style, drawing in zip(STYLES, row):
            is_held = (picture.emoji, style.name) in held_out
            cells += f"<td{' class=held' if is_held else ''}>{image_tag(drawing)}"
            original = by_emoji[picture.emoji].get(style.name)
            real += f"<td>{image_tag(original.pixels)}" if original else "<td>"
        rows += f"<tr><th rowspan=2>{html.escape(picture.names[0])}{cells}<tr>{real}"
    return (
        f"<h2>{len(chosen)} things in {len(STYLES)} styles</h2><p>Upper rows: drawn by the model. Lower rows: real "
        "pictures, where there are any. Framed in red: combinations that the training data do not have.</p>"
        f"<table class=matrix><tr><th>{head}{rows}</table>"
    )


def _examples(results: dict[str, Result], pictures: Sequence[StylePicture]) -> str:
    """Drawings of held-out combinations, evenly spaced, the wrong ones in red: drawing, wanted, nearest."""
    result, figures = results[NEW], ""
    for number in range(0, len(result.wanted), max(1, len(result.wanted) // EXAMPLES_SHOWN)):
        wanted, nearest = result.wanted[number], pictures[result.judgement.nearest[number]]
        right = result.judgement.both[number]
        said = "" if right else f"<br><small>nearest: {html.escape(prompt(nearest.names[0], nearest.style))}</small>"
        figures += (
            f"<figure{'' if right else ' class=wrong'}>{image_tag(result.drawings[number])}<span class=gap></span>"
            f"{image_tag(wanted.pixels)}{'' if right else image_tag(nearest.pixels)}"
            f"<figcaption>{html.escape(prompt(wanted.names[0], wanted.style))}{said}</figcaption></figure>"
        )
    return (
        "<h2>Held-out combinations</h2><p>The drawing, the real picture, which the model has never seen, and, if it is "
        f"another one (red), the real picture nearest to the drawing.</p><div class=row>{figures}</div>"
    )


def _by_style(results: dict[str, Result]) -> str:
    """Where it fails: the shares of each style among the held-out combinations."""
    rows = ""
    for style in STYLES:
        own = [
            (result, np.array([picture.style is style for picture in result.wanted]))
            for name, result in results.items()
            if name in (NEW, RECOLOURED)
        ]
        count = sum(int(mask.sum()) for _, mask in own)
        if count:
            right = [
                sum(int(getattr(result.judgement, what)[mask].sum()) for result, mask in own) / count
                for what in ("emoji", "style", "both")
            ]
            cells = "".join(f"<td>{share:.0%}" for share in right)
            rows += f"<tr><th>{style.phrases[0]} ({style.name})<td>{count}{cells}"
    return (
        "<h2>By style</h2><p>Drawings of all held-out combinations.</p><table><tr><th><th>pictures<th>emoji<th>style"
        f"<th>both{rows}</table>"
    )


def _captions(results: dict[str, Result]) -> str:
    result, figures = results[NEW], ""
    assert result.captions is not None
    for number in range(0, len(result.wanted), max(1, len(result.wanted) // EXAMPLES_SHOWN)):
        wanted, right = result.wanted[number], result.name[number] and result.style[number]
        expected = "" if right else f"<br><small>{html.escape(prompt(wanted.names[0], wanted.style))}</small>"
        figures += (
            f"<figure{'' if right else ' class=wrong'}>{image_tag(wanted.pixels)}<figcaption>"
            f"{html.escape(result.captions[number])}{expected}</figcaption></figure>"
        )
    return (
        "<h2>Captions of held-out pictures</h2><p>Greedy decoding; if it is wrong (red), what would be right in small "
        f"print.</p><div class=row>{figures}</div>"
    )


def _about_losses() -> str:
    return (
        "<p>Where the held-out loss rises while the training loss falls, the model learns the training pictures by "
        "heart and no longer becomes better at new ones.</p>"
    )
