"""What is let through to the application, and how much of it."""

import asyncio
import json
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi.exceptions import HTTPException
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxdiff.app.limits import Limits
from jaxdiff.app.line import Line

JOIN = "/gradio_api/queue/join"
EVENTS = (JOIN, "/gradio_api/cancel", "/gradio_api/reset")
"""Where the page sends JSON."""
UPLOAD = "/gradio_api/upload"
READ = ("queue/data", "upload_progress", "heartbeat/", "file=")
"""What the page reads below /gradio_api/. Gradio has more, which runs and stores things for whoever asks."""
MOST_JSON = 2**16
"""Bytes of a request that is no form with files: no settings need more, and it takes seconds to refuse a million of
them one by one."""


class Bounded:
    """An application that hears nothing but what its page and its API ask, reads no more of a request than it may have,
    nor for longer, and nothing of one that would not be taken.

    Args:
      app: the application.
      line: that requests wait in.
      limits: of a request.
      functions: numbers of the events of the page that have a function.
    """

    def __init__(self, app: ASGIApp, line: Line, limits: Limits, functions: Collection[int]) -> None:
        self.app, self.line, self.functions = app, line, functions
        self.most, self.seconds = limits.max_upload * 2**20, limits.max_arrival

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        heard = receive
        if scope["type"] == "http":
            try:
                heard = await self._heard(scope, receive)
            except HTTPException as error:
                answer = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
                return await answer(scope, receive, send)
        with suppress(ClientDisconnect):  # in the middle of an upload
            await self.app(scope, heard, send)

    async def _heard(self, scope: Scope, receive: Receive) -> Receive:
        """What the application receives by; `HTTPException` if it should not hear of it."""
        path, headers = scope["path"], Headers(scope=scope)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            below = path.removeprefix("/gradio_api/")
            if below != path and not below.startswith(READ):
                raise HTTPException(404, "the page has nothing there")
            return receive
        if not (path.startswith("/api/") or path in (*EVENTS, UPLOAD)):
            raise HTTPException(404, "nothing is taken there")
        form = headers.get("content-type", "").startswith("multipart/") and path not in EVENTS
        most = self.most if form else min(MOST_JSON, self.most)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            raise _too_large(most)
        body = _Body(receive, most, self.seconds)
        if self.line.full and (path.startswith("/api/") or path == JOIN):
            with suppress(HTTPException):  # what is left of it is thrown away, or the client would hear no answer
                await body.all()
            raise HTTPException(503, "too many requests wait; come again in a while", {"Retry-After": "5"})
        if path not in EVENTS:
            return body.receive
        content = await body.all()
        check_event(content, self.functions if path == JOIN else None)
        messages: Iterator[Message] = iter([{"type": "http.request", "body": content}])

        async def again() -> Message:
            return next(messages, None) or await receive()  # which tells of a client that goes away

        return again


class _Body:
    """The body of a request, of so many bytes at most, in so many seconds; `HTTPException` else."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self.given, self.most, self.seconds = receive, most, seconds
        self.read, self.whole, self.end = 0, False, time.monotonic() + seconds

    async def receive(self) -> Message:
        """Its next part."""
        if self.whole:
            return await self.given()  # which tells of a client that goes away
        try:
            message = await asyncio.wait_for(self.given(), max(0.0, self.end - time.monotonic()))
        except TimeoutError:
            raise HTTPException(408, f"the request did not come within {self.seconds:g} s") from None
        self.read += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.read > self.most:
            raise _too_large(self.most)
        return message

    async def all(self) -> bytes:
        """All that is left of it."""
        parts = []
        while not self.whole:
            parts.append((await self.receive()).get("body", b""))
        return b"".join(parts)


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"the request is larger than {most // 2**10} KiB")


def check_event(body: bytes, functions: Collection[int] | None = None) -> None:
    """Raise `HTTPException` unless it is a JSON object, of no files but those that were uploaded.

    Gradio copies each file that an event names to where it can be read, before any input looks at it, and fetches it if
    it is a URL.

    Args:
      body: of the request.
      functions: one of which the event must ask for.
    """
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(422, "expected JSON") from None
    if not isinstance(event, dict):
        raise HTTPException(422, "expected a JSON object")
    asked = event.get("fn_index")
    if functions is not None and not (isinstance(asked, int) and asked in functions):
        raise HTTPException(422, "fn_index: there is no such function")
    if not all(map(_was_uploaded, _paths(event))):
        raise HTTPException(422, "path: expected a file that was uploaded")


def _paths(value: Any) -> Iterator[Any]:
    """What is called a path anywhere in JSON."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if "path" in one:
                yield one["path"]
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)


def _was_uploaded(path: Any) -> bool:
    try:
        return Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve())
    except (TypeError, ValueError, OSError):  # no text; with a zero byte; too long
        return False
