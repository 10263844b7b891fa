"""The page and the API as one ASGI application, and what serves it."""

import warnings
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from PIL import Image
from starlette.types import ASGIApp

from jaxdiff.app.api import explain, router
from jaxdiff.app.bounded import Bounded
from jaxdiff.app.line import Line
from jaxdiff.app.model import Model
from jaxdiff.app.page import STYLE, THEME, page


def application(model: Model) -> ASGIApp:
    """The page at /, the API below /api, its description at /openapi.json.

    Pillow's own bound on pixels is set for this process, for Gradio opens images, too.
    """
    limits = model.limits
    Image.MAX_IMAGE_PIXELS = -(-limits.max_pixels // 2)  # it raises at twice as many, and warns before
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    line = Line(at_once=limits.at_once, waiting=limits.max_waiting)
    app = FastAPI(title=f"{model.name} - jaxdiff", version="1", docs_url=None, redoc_url=None)  # they would ask a CDN
    explain(app)
    app.include_router(router(model, line))
    blocks = page(model, line)
    blocks.has_launched = True  # or Gradio would not look at the paths of files that it is told to read
    mounted: Any = gr.mount_gradio_app(
        app, blocks, path="/", max_file_size=limits.max_upload * 2**20, footer_links=[], run_history=False,
        css=STYLE, theme=THEME, ssr_mode=False,
    )  # fmt: skip
    functions = [number for number, event in blocks.fns.items() if event.fn is not None]
    return Bounded(mounted, line, limits, functions)


def server(model: Model) -> uvicorn.Server:
    """What serves it: `server(model).run(sockets=[...])`, until Ctrl-C or SIGTERM."""
    most = model.limits.max_connections
    config = uvicorn.Config(
        application(model),
        log_level="warning",
        limit_concurrency=most,
        timeout_keep_alive=65,  # longer than clients', who would otherwise ask as the connection is closed
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)
