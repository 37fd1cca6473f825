"""The ASGI application: the JSON API, the web page, the health endpoint, and the middleware around them."""

from collections.abc import Callable, Iterable
from pathlib import Path

import gradio as gr
from fastapi_offline import FastAPIOffline
from starlette.routing import Mount
from starlette.types import ASGIApp

from vilg import __version__
from vilg.generation.pipeline import Pipeline
from vilg.serving import api, page
from vilg.serving.access import AccessControl
from vilg.serving.batching import Batcher
from vilg.serving.limits import Limits
from vilg.serving.listeners import Listeners
from vilg.serving.middleware import RequestLimits
from vilg.serving.uploads import UploadLimit

_BODY_OVERHEAD = 1.4  # base64 adds a third to the size of an image, and the other fields are small


def application(
    pipeline: Pipeline,
    batcher: Batcher,
    limits: Limits,
    folder: Path,
    token: str | None = None,
    hosts: Iterable[str] | None = None,
    root_path: str = "",
) -> tuple[ASGIApp, Callable[[], None]]:
    """Build the application, and a function that ends the connections by which the page knows that the server runs.

    `pipeline` is only asked for properties of the model; the thread of the batcher runs it.

    folder: for uploaded and generated files. token, hosts: see AccessControl. root_path: the path
    below which a reverse proxy publishes the server.
    """
    # The pages of FastAPI itself would load their scripts from another host.
    app = FastAPIOffline(
        title="ERNIE-ViLG", version=__version__, docs_url="/docs", redoc_url=None, static_url="/docs-assets"
    )

    @app.get("/health", tags=["server"])
    @app.head("/health", include_in_schema=False)
    def health() -> dict[str, int]:
        return {
            "waiting": batcher.waiting,
            "requests": batcher.requests,
            "batches": batcher.batches,
            "given_up": batcher.given_up,
        }

    api.add_routes(app, pipeline, batcher, limits)
    longest, listeners = limits.megabytes * 10**6, Listeners()
    blocks = page.build(pipeline, batcher, limits, listeners, folder)
    gr.mount_gradio_app(
        app,
        blocks,
        "",
        root_path=root_path or None,
        show_api=False,
        ssr_mode=False,
        max_file_size=longest,
    )
    sessions = listeners.around(app, lambda session: session in blocks._queue.pending_messages_per_session)
    uploads = UploadLimit(sessions, folder, limits.uploads * 10**6, page.KEEP)
    mounted = next(
        route.app for route in app.routes if isinstance(route, Mount) and isinstance(route.app, gr.routes.App)
    )
    limited = RequestLimits(uploads, int(longest * _BODY_OVERHEAD) + 10**5)
    return AccessControl(limited, token, hosts), mounted.stop_event.set
