"""The page, and the two endpoints of its HTTP API: /generate and /caption."""

import asyncio
import base64
import secrets
import time
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from gradio import queueing

from vilg.errors import UserError
from vilg.generation.pipeline import Pipeline
from vilg.generation.sampling import Sampler
from vilg.serving import validation
from vilg.serving.batching import Batcher, RequestHandle
from vilg.serving.limits import Limits
from vilg.serving.tasks import CaptionTask, ImageTask
from vilg.serving.validation import integer, number

EXAMPLES = ["红苹果", "大象", "太阳", "蓝色的鱼"]
_PATIENCE = 0.5  # seconds after which a request says where it stands, and gradio looks whether its client is there
_KEEP = (60, 600)  # seconds: how often uploads and drawings are looked through, and how old they get
_STYLE = (Path(__file__).parent / "page.css").read_text("utf-8")
_HEADER = """<h1>ERNIE-ViLG</h1>
<p>One transformer draws what a Chinese caption says, token by token, and says in Chinese what it sees in a
picture.</p>"""


def build(pipeline: Pipeline, batcher: Batcher, limits: Limits) -> gr.Blocks:
    """The page over what the batcher carries out; `pipeline` only tells what its model reads."""
    generate, caption = _handlers(pipeline, batcher, limits)
    theme = gr.themes.Soft(
        primary_hue="rose",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    with gr.Blocks(theme=theme, css=_STYLE, title="ERNIE-ViLG", analytics_enabled=False, delete_cache=_KEEP) as page:
        gr.HTML(_HEADER, elem_id="head")
        with gr.Tab("Draw"), gr.Row():
            with gr.Column(scale=2, min_width=300):
                text = gr.Textbox(label="Caption", placeholder="红苹果", lines=2, max_lines=4, elem_id="text")
                gr.Examples([[one] for one in EXAMPLES], text, label="For example", api_name=False)
                count = _slider(1, limits.pictures, min(4, limits.pictures), step=1, label="Pictures")
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
                with gr.Accordion("Settings", open=False):
                    temperature = _slider(
                        0.05, 2, 1, step=0.05, label="Temperature", info="below 1 is safer, above 1 wilder"
                    )
                    top_k = _slider(0, 256, 0, step=1, label="Top-k", info="only the k likeliest tokens; 0: all")
                    top_p = _slider(
                        0.05, 1, 1, step=0.05, label="Top-p", info="only the likeliest tokens that together reach p"
                    )
                    untrained = "; this model was not trained for it" if pipeline.caption_dropout == 0 else ""
                    guidance = _slider(
                        0, 8, 1, step=0.5, label="Guidance", info=f"above 1 nearer to the caption; 1: none{untrained}"
                    )
                    seed = gr.Textbox(label="Seed", placeholder="any", info="the same seed draws the same pictures")
            with gr.Column(scale=3, min_width=320):
                drawn = gr.Gallery(
                    show_label=False,
                    columns=2,
                    object_fit="contain",
                    format="png",
                    height="auto",
                    show_share_button=False,
                    interactive=False,
                    elem_id="drawn",
                )
                drawn_note = gr.Markdown(elem_id="drawn-note")
        with gr.Tab("Describe"), gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture = gr.Image(label="Picture", sources=["upload", "clipboard"], height=320, elem_id="picture")
                picture.preprocess = _bytes_of  # a class of our own makes gradio write a .pyi file beside this one
                beams = _slider(
                    1,
                    limits.beams,
                    min(4, limits.beams),
                    step=1,
                    label="How many",
                    info="the best that a beam search of this width finds; 1: word by word",
                )
                describe = gr.Button("Describe", variant="primary", elem_id="describe")
            with gr.Column(scale=3, min_width=320):
                captions = gr.Label(label="Captions", elem_id="captions")
                captions_note = gr.Markdown(elem_id="captions-note")
        # The batcher has a queue of its own, and batches are made of what waits there.
        free = {"concurrency_limit": None, "show_progress": "hidden"}
        gr.on(
            [draw.click, text.submit],
            generate,
            [text, count, temperature, top_k, top_p, guidance, seed],
            [drawn, drawn_note],
            api_name="generate",
            **free,
        )
        gr.on(
            [describe.click, picture.upload],
            caption,
            [picture, beams],
            [captions, captions_note],
            api_name="caption",
            **free,
        )
    page.max_threads = limits.waiting + limits.rows + 16  # so many are handed on; beyond `waiting` they are refused
    return page.queue()


def _handlers(pipeline: Pipeline, batcher: Batcher, limits: Limits):
    async def generate(text, count, temperature, top_k, top_p, guidance, seed):
        """Draw pictures of a caption. They come unfinished first, with grey where nothing is drawn yet."""
        with _one_line_errors():
            began, seed = time.monotonic(), secrets.randbelow(10**6) if seed in (None, "") else seed
            task = ImageTask(
                validation.text(text, limits, pipeline),
                integer("pictures", count, 1, limits.pictures),
                Sampler(
                    integer("seed", seed, 0, 2**53),
                    number("temperature", temperature),
                    integer("top-k", top_k, 0, 2**31),
                    top_p=number("top-p", top_p),
                ),
                number("guidance", guidance, lowest=0),
            )
            with batcher.submit(task) as handle:
                while (event := await handle.next_event(_PATIENCE)) is None or not event.last:
                    if event is None:
                        yield gr.skip(), _standing(batcher, handle)
                    else:
                        yield list(event.result.pixels), f"token {event.result.done} of {event.result.total}"
            seeds = ", ".join(str(task.sampler.seed + number) for number in range(task.count))
            yield list(event.result.pixels), f"{time.monotonic() - began:.1f} s, seed {seeds}"

    async def caption(picture, beams):
        """Describe a picture: the best captions that a beam search finds, and how likely their words are on average."""
        with _one_line_errors():
            began, beams = time.monotonic(), integer("captions", beams, 1, limits.beams)
            task = CaptionTask(await asyncio.to_thread(validation.image, picture, limits), beams)
            with batcher.submit(task) as handle:
                while (event := await handle.next_event(_PATIENCE)) is None:
                    yield gr.skip(), _standing(batcher, handle)
            named = [(text or "(nothing)", likely) for text, likely in event.result]
            found = named[0][0] if beams == 1 else dict(reversed(named))  # of equal ones the best stays
            yield found, f"{time.monotonic() - began:.1f} s"

    return generate, caption


def _standing(batcher: Batcher, handle: RequestHandle) -> str:
    before = batcher.position(handle)
    return "working" if before is None else f"waiting, {before} before this one"


@contextmanager
def _one_line_errors():
    """UserError becomes the message that gradio shows, without a traceback in the log."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error).removeprefix("--"), print_exception=False) from None


def _slider(lowest: float, highest: float, value: float, **looks) -> gr.Slider:
    """A slider that hands on what came over HTTP, whatever it is; gradio's own checks depend on its version."""
    slider = gr.Slider(lowest, highest, value, **looks)
    slider.preprocess = lambda given: given
    return slider


def _bytes_of(upload) -> bytes | None:
    """What an image component hands on: the file as it came, for the limits to check before anything is decoded."""
    if upload is None:
        return None
    try:
        if upload.url and upload.url.startswith("data:"):
            return base64.b64decode(upload.url.partition(",")[2], validate=True)
        return Path(upload.path or "").read_bytes()
    except (OSError, ValueError):  # deleted by now; no base64
        return b""


def _errors_for_curl() -> None:
    """gradio's plain endpoint, POST /call/NAME, sends the `data` of a result, and of an error too, which has none."""
    told = queueing.error_payload
    queueing.error_payload = lambda error, show: {**(content := told(error, show)), "data": [content["error"]]}


_errors_for_curl()
