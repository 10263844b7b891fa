"""The page and the API as one ASGI application, with bounds on what comes in, and what serves it."""

import warnings
from contextlib import suppress
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import HTTPException
from PIL import Image
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxdiff.app.api import explain, router
from jaxdiff.app.limits import Limits
from jaxdiff.app.line import Line
from jaxdiff.app.model import Model
from jaxdiff.app.page import STYLE, THEME, page


def application(model: Model) -> ASGIApp:
    """The page at /, the API below /api, its description at /docs.

    Pillow's own bound on pixels is set for this process, for Gradio opens images, too.
    """
    limits = model.limits
    Image.MAX_IMAGE_PIXELS = limits.max_pixels // 2  # it raises at twice as many, and warns before
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    line = Line(at_once=limits.at_once, waiting=limits.max_waiting)
    app = FastAPI(title=f"{model.name} - jaxdiff", version="1")
    explain(app)
    app.include_router(router(model, line))
    mounted: Any = gr.mount_gradio_app(
        app, page(model, line), path="/", max_file_size=limits.max_upload * 2**20, footer_links=[], run_history=False,
        css=STYLE, theme=THEME, ssr_mode=False,
    )  # fmt: skip
    return Bounded(mounted, line, limits)


class Bounded:
    """An application that reads no more of a request than it may have, and nothing of one that would not be taken."""

    def __init__(self, app: ASGIApp, line: Line, limits: Limits) -> None:
        self.app, self.line, self.most = app, line, limits.max_upload * 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self.app(scope, receive, send)
        detail, read = f"the request is larger than {self.most // 2**20} MiB", 0
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most:
            return await JSONResponse({"detail": detail}, 413)(scope, receive, send)

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                raise HTTPException(413, detail)
            return message

        if scope["path"].startswith("/api/") and self.line.full:
            with suppress(HTTPException):  # what is left of it is thrown away, or the client would hear no answer
                while (await counted()).get("more_body", False):
                    pass
            busy = JSONResponse({"detail": "too many requests wait; come again in a while"}, 503, {"Retry-After": "5"})
            return await busy(scope, receive, send)
        return await self.app(scope, counted, send)


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
