"""The page and the API as one ASGI application, with bounds on what comes in, and what serves it."""

import asyncio
import time
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
    Image.MAX_IMAGE_PIXELS = -(-limits.max_pixels // 2)  # it raises at twice as many, and warns before
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


MOST_JSON = 2**16
"""Bytes of a request to the API that is no form with files: no settings need more, and it takes seconds to refuse a
million of them one by one."""


class Bounded:
    """An application that reads no more of a request than it may have, nor for longer, and nothing of one that would
    not be taken."""

    def __init__(self, app: ASGIApp, line: Line, limits: Limits) -> None:
        self.app, self.line = app, line
        self.most, self.seconds = limits.max_upload * 2**20, limits.max_arrival

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self.app(scope, receive, send)
        headers, path = Headers(scope=scope), scope["path"]
        form = headers.get("content-type", "").startswith("multipart/")
        most = self.most if form or not path.startswith("/api/") else min(MOST_JSON, self.most)
        detail = f"the request is larger than {most // 2**10} KiB"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            return await JSONResponse({"detail": detail}, 413)(scope, receive, send)
        read, whole, end = 0, False, time.monotonic() + self.seconds

        async def counted() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()  # which tells of a client that goes away
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, f"the request did not come within {self.seconds:g} s") from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > most:
                raise HTTPException(413, detail)
            return message

        if self.line.full and (path.startswith("/api/") or path.endswith("/queue/join")):
            with suppress(HTTPException):  # what is left of it is thrown away, or the client would hear no answer
                while not whole:
                    await counted()
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
