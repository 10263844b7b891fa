"""The HTTP API: the same jobs as the page's, in the same line."""

import io
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, FastAPI, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field

from jaxdiff.app.limits import BusyError, TooLargeError
from jaxdiff.app.line import Line, worked
from jaxdiff.app.model import Job, Model, Settings
from jaxdiff.data.images import encode_png, grid
from jaxdiff.typing import InputError


class Wanted(Settings):
    """Settings, and the form of the answer."""

    format: Literal["png", "npz"] = Field(
        default="png", description="A picture, several as a grid; or arrays `images` (uint8 NHWC) and `labels`."
    )


class Inpainting(Wanted):
    """A form with two files."""

    image: UploadFile = Field(description="Of which a part is painted anew.")
    mask: UploadFile = Field(description="White where; as large as the image or as the network's pictures.")
    resamplings: int | None = Field(
        default=None,
        description="Of RePaint: how often every step is gone; 1 once; default 10, or what max_steps lets.",
    )
    jump_length: int | None = Field(default=None, description="Of RePaint: the steps that it goes back up; default 10.")


class Denoising(Wanted):
    """A form with a file."""

    image: UploadFile = Field(description="With white noise.")
    noise: float | None = Field(
        default=None, description="Its standard deviation, 1 is 127.5 grey levels; none: estimated."
    )
    mean: bool = Field(default=False, description="The posterior mean in place of draws from the posterior.")


FILES = Form(media_type="multipart/form-data")


def _table(form: type[Settings], but: tuple[str, ...] = ()) -> str:
    rows = (f"| `{name}` | {field.description} |" for name, field in form.model_fields.items() if name not in but)
    return "\n".join(["| | |", "|---|---|", *rows])


MANUAL = f"""
URL is this page's address, as far as the port. The answer is a picture, or `{{"detail": TEXT}}`: 422 for what cannot
be, 413 for what is too large, 503 where too many wait. `/api/model` tells of the network and the limits,
[/openapi.json](/openapi.json) describes all of this to programs. No setting must be given.

    curl --fail-with-body -o made.png -H 'Content-Type: application/json' -d '{{"num": 4, "seed": 1}}' URL/api/sample

{_table(Wanted)}

The others take the same as fields of a form, and

    curl --fail-with-body -o painted.png -F image=@image.png -F mask=@mask.png -F num=4 URL/api/inpaint

{_table(Inpainting, tuple(Wanted.model_fields))}

    curl --fail-with-body -o clean.png -F image=@noisy.png -F mean=true URL/api/denoise

{_table(Denoising, tuple(Wanted.model_fields))}
"""
"""How to program it, as Markdown."""


def router(model: Model, line: Line) -> APIRouter:
    """The routes below /api."""
    api = APIRouter(prefix="/api")

    @api.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the app lives, and how many requests are here."""
        return {"ok": True, "requests": len(line.tickets)}

    @api.get("/model")
    async def about() -> dict[str, Any]:
        """The network, its defaults, and the limits."""
        height, width, channels = model.spec.image_shape
        return {
            "name": model.name, "height": height, "width": width, "channels": channels,
            "classes": model.spec.num_classes, "samplers": model.samplers, "limits": vars(model.limits),
            "defaults": {name: getattr(model.config.sample, name) for name in ("sampler", "steps", "guidance")},
        }  # fmt: skip

    @api.post("/sample", response_class=Response)
    async def sample(request: Request, wanted: Wanted) -> Response:
        """Pictures from noise."""
        return await _answer(request, line, model, model.sample(wanted), wanted)

    @api.post("/inpaint", response_class=Response)
    async def inpaint(request: Request, wanted: Annotated[Inpainting, FILES]) -> Response:
        """A part of an image anew, so that it fits the rest: RePaint."""
        job = model.inpaint(
            wanted, await wanted.image.read(), await wanted.mask.read(), jump_length=wanted.jump_length,
            resamplings=wanted.resamplings,
        )  # fmt: skip
        return await _answer(request, line, model, job, wanted)

    @api.post("/denoise", response_class=Response)
    async def denoise(request: Request, wanted: Annotated[Denoising, FILES]) -> Response:
        """An image without its white noise."""
        job = model.denoise(wanted, await wanted.image.read(), noise=wanted.noise, mean=wanted.mean)
        return await _answer(request, line, model, job, wanted)

    return api


async def _answer(request: Request, line: Line, model: Model, job: Job, wanted: Wanted) -> Response:
    """The pictures of a job, when it was its turn; a client that has gone away ends it, or its waiting."""
    pictures = None
    async with line.join() as ticket:
        async for _ in ticket.wait():
            if await request.is_disconnected():
                return Response(status_code=GONE)
        async with aclosing(worked(job, seconds=model.limits.max_seconds)) as frames:
            async for frame in frames:
                pictures = frame.pictures
                if await request.is_disconnected():
                    return Response(status_code=GONE)
        assert pictures is not None
        return await to_thread.run_sync(_written, pictures, job.labels, wanted.format)


def _written(pictures: np.ndarray, labels: np.ndarray | None, form: str) -> Response:
    if form == "npz":
        told = np.full(len(pictures), -1, np.int32) if labels is None else labels
        file = io.BytesIO()
        np.savez_compressed(file, images=pictures, labels=told)
        return Response(file.getvalue(), media_type="application/octet-stream")
    return Response(encode_png(pictures[0] if len(pictures) == 1 else grid(pictures)), media_type="image/png")


GONE = 499
"""Of an answer that nobody reads."""


def explain(app: FastAPI) -> None:
    """Errors as JSON, `{"detail": TEXT}`."""

    @app.exception_handler(InputError)
    async def wrong(_: Request, error: InputError) -> Response:
        return JSONResponse({"detail": str(error)}, 413 if isinstance(error, TooLargeError) else 422)

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> Response:
        return JSONResponse({"detail": str(error)}, 503, headers={"Retry-After": "5"})

    @app.exception_handler(RequestValidationError)
    async def unread(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"detail": told(error.errors(), within=1)}, 422)


def told(errors: Sequence[Any], *, within: int = 0) -> str:
    """What Pydantic finds wrong, the first ten things; `within`: so many names come before a setting's own."""
    found = (f"{'.'.join(map(str, one['loc'][within:])) or 'body'}: {one['msg']}" for one in errors[:10])
    return "; ".join(found)
