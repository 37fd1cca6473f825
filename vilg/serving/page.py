"""The web page. Its two endpoints, generate and caption, use gradio's protocol; other programs use api.py."""

import asyncio
import secrets
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gradio as gr
from PIL import Image

from vilg.errors import UserError
from vilg.generation.metadata import CHUNK, describe, of_image, to_json
from vilg.generation.pipeline import Pipeline
from vilg.generation.sampling import Sampler
from vilg.serving import validation
from vilg.serving.batching import Batcher, RequestHandle
from vilg.serving.limits import Limits
from vilg.serving.listeners import Listeners
from vilg.serving.tasks import CaptionTask, ImageTask
from vilg.serving.uploads import read_upload
from vilg.serving.validation import integer, number

EXAMPLES = ["红心", "红苹果", "足球", "绿心"]  # which the demo learns well
_PATIENCE = 0.5  # seconds between status messages, at which gradio checks whether the client is connected
KEEP = 600  # seconds after which uploaded and generated files are deleted
_STYLE = (Path(__file__).parent / "page.css").read_text("utf-8")
_HEADER = """<h1>ERNIE-ViLG</h1>
<p>One transformer generates images from Chinese text and captions images in Chinese.</p>"""


def build(pipeline: Pipeline, batcher: Batcher, limits: Limits, listeners: Listeners, folder: Path) -> gr.Blocks:
    """The page. `pipeline` is only asked for properties of the model; requests go to the batcher.

    folder: where gradio stores uploaded and generated files.
    """
    generate, caption = _handlers(pipeline, batcher, limits, listeners)
    theme = gr.themes.Soft(
        primary_hue="rose",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    with gr.Blocks(
        theme=theme, css=_STYLE, title="ERNIE-ViLG", analytics_enabled=False, delete_cache=(60, KEEP)
    ) as page:
        gr.HTML(_HEADER, elem_id="head")
        with gr.Tab("Generate"), gr.Row():
            with gr.Column(scale=2, min_width=300):
                text = gr.Textbox(label="Caption", placeholder="红苹果", lines=2, max_lines=4, elem_id="text")
                text.preprocess = lambda payload: payload  # type: ignore[method-assign]  # gradio would accept any type
                gr.Examples([[example] for example in EXAMPLES], text, label="For example", api_name=False)
                count = _slider(1, limits.pictures, min(4, limits.pictures), step=1, label="Images")
                generate_button = gr.Button("Generate", variant="primary", elem_id="generate")
                with gr.Accordion("Settings", open=False):
                    temperature = _slider(
                        0.05,
                        2,
                        1,
                        step=0.05,
                        label="Temperature",
                        info="below 1: more likely tokens; above 1: more variety",
                    )
                    top_k = _slider(0, 256, 0, step=1, label="Top-k", info="only the k most likely tokens; 0: all")
                    top_p = _slider(
                        0.05,
                        1,
                        1,
                        step=0.05,
                        label="Top-p",
                        info="only the most likely tokens with total probability p",
                    )
                    untrained = "; this model was not trained for it" if pipeline.caption_dropout == 0 else ""
                    guidance = _slider(
                        0, 8, 1, step=0.5, label="Guidance", info=f"above 1: closer to the caption; 1: off{untrained}"
                    )
                    seed = gr.Textbox(label="Seed", placeholder="any", info="the same seed gives the same images")
            with gr.Column(scale=3, min_width=320):
                gallery = gr.Gallery(
                    show_label=False,
                    columns=2,
                    object_fit="contain",
                    format="png",
                    height="auto",
                    show_share_button=False,
                    interactive=False,
                    elem_id="images",
                )
                gallery_note = gr.Markdown(elem_id="images-note")
        with gr.Tab("Caption"), gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture = gr.Image(label="Image", sources=["upload", "clipboard"], height=320, elem_id="picture")
                # A subclass would make gradio write a .pyi file next to this module.
                picture.preprocess = partial(_bytes_of, folder, limits)  # type: ignore[method-assign, assignment]
                beams = _slider(
                    1,
                    limits.beams,
                    min(4, limits.beams),
                    step=1,
                    label="How many",
                    info="width of the beam search; 1: greedy decoding",
                )
                caption_button = gr.Button("Caption", variant="primary", elem_id="caption")
            with gr.Column(scale=3, min_width=320):
                captions = gr.Label(label="Captions", elem_id="captions")
                captions_note = gr.Markdown(elem_id="captions-note")
        # The batcher has its own queue, from which it builds batches.
        free = {"concurrency_limit": None, "show_progress": "hidden"}
        gr.on(
            [generate_button.click, text.submit],
            generate,
            [text, count, temperature, top_k, top_p, guidance, seed],
            [gallery, gallery_note],
            api_name="generate",
            **free,
        )
        gr.on(
            [caption_button.click, picture.upload],
            caption,
            [picture, beams],
            [captions, captions_note],
            api_name="caption",
            **free,
        )
    page.max_threads = (
        limits.waiting + limits.rows + 16
    )  # requests passed on at the same time; the batcher refuses more than `waiting`
    # A page that is mounted in an application counts as not launched, and gradio then trusts every path that a client
    # names, and publishes every SVG file among them.
    page.has_launched = page.is_running = True
    return page.queue(api_open=False)  # /run/predict only for what needs no queue, such as the examples


def _handlers(pipeline: Pipeline, batcher: Batcher, limits: Limits, listeners: Listeners):
    async def generate(text, count, temperature, top_k, top_p, guidance, seed, request: gr.Request):
        """Generate images for a caption. Partial images are sent first, with missing parts in grey."""
        if not await listeners.arrives(request.session_hash):
            return
        with _one_line_errors():
            began, seed = time.monotonic(), secrets.randbelow(10**6) if seed in (None, "") else seed
            text, warnings = validation.text(text, limits, pipeline)
            task = ImageTask(
                text,
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
                    if not listeners.is_present(request.session_hash):
                        return
                    if event is None:
                        yield gr.skip(), _queue_status(batcher, handle)
                    else:
                        yield list(event.result.pixels), f"token {event.result.done} of {event.result.total}"
            seeds = [task.sampler.seed + index for index in range(task.count)]
            metadata = describe(pipeline, text, seeds, task.sampler, task.guidance, candidates=task.count)
            images = [Image.fromarray(pixels) for pixels in event.result.pixels]
            for index, image in enumerate(images):
                image.info[CHUNK] = to_json(of_image(metadata, index))  # gradio writes it into the PNG
            note = f"{time.monotonic() - began:.1f} s, seed {', '.join(map(str, seeds))}"
            yield images, "  \n".join([note, *warnings])

    async def caption(picture, beams, request: gr.Request):
        """Caption an image: the best captions of beam search, and the mean probability of their tokens."""
        if not await listeners.arrives(request.session_hash):
            return
        with _one_line_errors():
            began, beams = time.monotonic(), integer("captions", beams, 1, limits.beams)
            task = CaptionTask(await asyncio.to_thread(validation.image, picture, limits), beams)
            with batcher.submit(task) as handle:
                while (event := await handle.next_event(_PATIENCE)) is None:
                    if not listeners.is_present(request.session_hash):
                        return
                    yield gr.skip(), _queue_status(batcher, handle)
            named = [(text or "(nothing)", likely) for text, likely in event.result]
            captions = named[0][0] if beams == 1 else dict(reversed(named))  # keep the best of equal captions
            yield captions, f"{time.monotonic() - began:.1f} s"

    return generate, caption


def _queue_status(batcher: Batcher, handle: RequestHandle) -> str:
    before = batcher.position(handle)
    return "working" if before is None else f"waiting, {before} before this one"


@contextmanager
def _one_line_errors():
    """Convert UserError to the message that gradio shows, without a traceback in the log."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error).removeprefix("--"), print_exception=False) from None


def _slider(lowest: float, highest: float, value: float, **options) -> gr.Slider:
    """A slider that passes on any value that is sent over HTTP. gradio's own validation depends on its version."""
    slider = gr.Slider(lowest, highest, value, **options)
    slider.preprocess = lambda payload: payload  # type: ignore[method-assign]
    return slider


def _bytes_of(folder: Path, limits: Limits, upload) -> bytes | None:
    """The uploaded file of an image component, so that limits are checked before anything is decoded."""
    if upload is None:
        return None
    try:
        return read_upload(folder, upload.path or "", limits.megabytes * 10**6)
    except ValueError:  # not uploaded, or deleted already
        return b""
