"""The page, a word on the server's health, and the gate before both, as one ASGI application."""

import fastapi
import gradio as gr
from starlette.types import ASGIApp

from vilg.generation.pipeline import Pipeline
from vilg.serving import page
from vilg.serving.batching import Batcher
from vilg.serving.limits import Limits
from vilg.serving.middleware import RequestLimits

_BESIDES = 1.4  # base64 makes a picture longer by a third, and the other fields are short


def application(pipeline: Pipeline, batcher: Batcher, limits: Limits) -> ASGIApp:
    """`pipeline` only tells what its model reads; it is the batcher's thread that uses it."""
    app = fastapi.FastAPI(openapi_url=None)  # its pages of documentation come from another host

    @app.get("/health")
    def health() -> dict[str, int]:
        return {
            "waiting": batcher.waiting,
            "requests": batcher.requests,
            "batches": batcher.batches,
            "given_up": batcher.given_up,
        }

    longest = limits.megabytes * 10**6
    gr.mount_gradio_app(
        app, page.build(pipeline, batcher, limits), "", show_api=False, ssr_mode=False, max_file_size=longest
    )
    return RequestLimits(app, int(longest * _BESIDES) + 10**5)
