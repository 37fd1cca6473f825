"""The ASGI application: the web page, the health endpoint, and the middleware around them."""

import fastapi
import gradio as gr
from starlette.types import ASGIApp

from vilg.generation.pipeline import Pipeline
from vilg.serving import page
from vilg.serving.batching import Batcher
from vilg.serving.limits import Limits
from vilg.serving.middleware import RequestLimits

_BODY_OVERHEAD = 1.4  # base64 adds a third to the size of an image, and the other fields are small


def application(pipeline: Pipeline, batcher: Batcher, limits: Limits) -> ASGIApp:
    """Build the application. `pipeline` is only asked for properties of the model; the thread of the batcher runs
    it.
    """
    app = fastapi.FastAPI(openapi_url=None)  # the documentation pages would load scripts from another host

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
    return RequestLimits(app, int(longest * _BODY_OVERHEAD) + 10**5)
