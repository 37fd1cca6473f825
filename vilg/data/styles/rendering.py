"""SVG -> pixels."""

import io

from PIL import Image

from vilg.data.bad_samples import BadSampleError
from vilg.errors import UserError

SIZE = 128  # side in pixels
_DRAWING = 116  # side of the drawing; the rest is a white margin


def render(svg: str) -> Image.Image:
    """An RGB image of SIZE x SIZE pixels, the drawing in the middle of a white square.

    Raises BadSampleError if the drawing cannot be rendered or is empty, UserError without the package resvg-py.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(f"drawings are rendered by resvg-py: pip install 'vilg[demo]' ({error})") from None
    try:
        # Without the fonts of the system, which differ between machines.
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_DRAWING, height=_DRAWING, skip_system_fonts=True))
        drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    except (ValueError, OSError, RuntimeError) as error:
        raise BadSampleError(f"the SVG cannot be rendered ({' '.join(str(error).split())[:100]})") from None
    if drawing.getchannel("A").getextrema()[1] == 0:
        raise BadSampleError("the SVG is empty")
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    canvas.alpha_composite(drawing, ((SIZE - _DRAWING) // 2, (SIZE - _DRAWING) // 2))
    return canvas.convert("RGB")
