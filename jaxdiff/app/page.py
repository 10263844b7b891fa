"""The page: three tabs, one for each kind of job."""

import base64
import html
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr
import numpy as np
from anyio import to_thread
from PIL import Image
from pydantic import ValidationError

from jaxdiff import build
from jaxdiff.app import images
from jaxdiff.app.editor import editor
from jaxdiff.app.limits import BusyError
from jaxdiff.app.line import Line, worked
from jaxdiff.app.model import Frame, Job, Model, Settings
from jaxdiff.data.images import encode_png, grid
from jaxdiff.typing import InputError

SHOWN_EVERY = 0.1
"""Seconds between two pictures of the reverse process, at least."""
EDITED = 320
"""Pixels of the side of the image that a mask is drawn on, about."""
STYLE = ".watched img { image-rendering: pixelated; min-width: 256px; max-width: 100%; }"
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none that a browser must fetch

ALL = -2
"""Of a label: every class in turn."""

Outcome = tuple[str, Any]
"""What is shown while it is made, and the picture in the end."""


def page(model: Model, line: Line) -> gr.Blocks:
    """The page of a model, whose jobs wait in a line."""
    height, width, channels = model.spec.image_shape
    colour = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    with gr.Blocks(title=f"{model.name} - jaxdiff", analytics_enabled=False, delete_cache=(60, 600)) as blocks:
        gr.Markdown(
            f"# {model.name}\nPictures of {width}x{height} pixels, {colour}. The same over HTTP: [/docs](/docs)."
        )
        with gr.Tab("Pictures"):
            _pictures(model, line)
        with gr.Tab("Inpaint"):
            _inpaint(model, line)
        with gr.Tab("Denoise"):
            _denoise(model, line)
    blocks.state_session_capacity = 1000  # visitors whose image is kept, the last ones
    blocks.queue(default_concurrency_limit=None, max_size=1000, api_open=False)  # all wait in our line, with the API's
    return blocks  # type: ignore[no-any-return]  # of __enter__


def _pictures(model: Model, line: Line) -> None:
    with gr.Row():
        with gr.Column():
            names, inputs = _controls(model, sampler=model.config.sample.sampler, num=4)
            make = gr.Button("Make pictures", variant="primary")
            stop = gr.Button("Stop")
        watched, made = _outcome()

    async def run(*values: Any) -> AsyncIterator[Outcome]:
        async with aclosing(_outcomes(model, line, lambda: model.sample(_settings(names, values)))) as outcomes:
            async for outcome in outcomes:
                yield outcome

    _runs(make, stop, run, inputs, [watched, made])


def _inpaint(model: Model, line: Line) -> None:
    image = gr.State(None, time_to_live=3600)  # as the network sees it; the editor has it enlarged
    with gr.Row():
        with gr.Column():
            with gr.Row():
                upload = gr.UploadButton("Upload an image", file_types=["image"])
                own = gr.Button("Take one of the network's")
            drawing = editor(
                label="Draw over what is to be painted anew", format="png", sources=(), transforms=(), layers=False,
                interactive=True, height=EDITED + 160,
                brush=gr.Brush(default_size=EDITED // 8, colors=["#ff3030"], color_mode="fixed"),
            )  # fmt: skip
            names, inputs = _controls(model, sampler="ddpm", num=4, of_image=True)
            resamplings = gr.Slider(1, 20, 5, step=1, label="Resamplings (RePaint)")
            paint = gr.Button("Inpaint", variant="primary")
            stop = gr.Button("Stop")
        watched, made = _outcome()

    def show(picture: np.ndarray) -> tuple[np.ndarray, Any]:
        return picture, {"background": _enlarged(picture), "layers": [], "composite": None}

    def uploaded(path: str) -> tuple[np.ndarray, Any]:
        found = images.opened(images.content_of(path), "image", max_pixels=model.limits.max_pixels)
        return show(images.as_pixels(found, "image", model.spec.image_shape))

    async def made_one(*values: Any) -> AsyncIterator[tuple[Any, Any]]:
        last: Frame | int = 0
        async with aclosing(_frames(model, line, lambda: model.sample(_settings(shown, values)))) as frames:
            async for found in frames:
                last = found
                yield gr.skip(), gr.skip()  # where one who went away is noticed
        assert isinstance(last, Frame)
        yield show(last.pictures[0])

    async def run(image: np.ndarray | None, drawn: Any, resamplings: int, *values: Any) -> AsyncIterator[Outcome]:
        def job() -> Job:
            if image is None:
                raise InputError("no image: upload one, or take one of the network's")
            known = _known(drawn, model.spec.image_shape)
            return model.inpaint(_settings(names, values), image, known, resamplings=resamplings)

        async with aclosing(_outcomes(model, line, job)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    upload.upload(_saying(uploaded), upload, [image, drawing], concurrency_limit=1, **QUIET)  # it decodes
    shown = [name for name in names if name in ("labels", "seed")]
    given = [inputs[names.index(name)] for name in shown]
    taking = own.click(made_one, given, [image, drawing], show_progress="hidden", **QUIET)
    stop.click(None, None, None, cancels=[taking], **QUIET)
    _runs(paint, stop, run, [image, drawing, resamplings, *inputs], [watched, made])


def _denoise(model: Model, line: Line) -> None:
    with gr.Row():
        with gr.Column():
            noisy = gr.Image(
                label="A noisy image", type="filepath", image_mode=None, sources=["upload"], height=240, buttons=[]
            )  # fmt: skip
            estimated = gr.Checkbox(True, label="Estimate the noise")
            noise = gr.Slider(0.01, 2.0, 0.3, step=0.01, label="Its standard deviation (grey levels / 127.5)")
            mean = gr.Checkbox(False, label="The mean, by one call of the network, in place of draws")
            names, inputs = _controls(model, sampler="ddpm", num=1, of_image=True, guidance=False)
            clean = gr.Button("Denoise", variant="primary")
            stop = gr.Button("Stop")
        watched, made = _outcome()

    async def run(path: str | None, estimated: bool, noise: float, mean: bool, *values: Any) -> AsyncIterator[Outcome]:
        def job() -> Job:
            if path is None:
                raise InputError("no image: upload one")
            given = _settings([n for n in names if n not in ("sampler", "steps")], [
                value for name, value in zip(names, values) if name not in ("sampler", "steps")
            ]) if mean else _settings(names, values)  # fmt: skip
            return model.denoise(given, images.content_of(path), noise=None if estimated else noise, mean=mean)

        async with aclosing(_outcomes(model, line, job)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    _runs(clean, stop, run, [noisy, estimated, noise, mean, *inputs], [watched, made])


QUIET: dict[str, Any] = {"api_visibility": "private"}
"""Of the page's own events: who programs uses the API."""


def _controls(
    model: Model, *, sampler: str, num: int, of_image: bool = False, guidance: bool = True
) -> tuple[list[str], list[Any]]:
    """The settings' names, and a component for each."""
    sample, limits, classes = model.config.sample, model.limits, model.spec.num_classes
    found: dict[str, Any] = {}
    if classes is not None:
        none = [("none", -1)] if build.knows_none(model.config) else []
        labels = [*(none if of_image else [("all in turn", ALL), *none]), *((str(i), i) for i in range(classes))]
        found["labels"] = gr.Dropdown(labels, value=labels[0][1], label="Label")
        if guidance and none:
            found["guidance"] = gr.Slider(0, 8, sample.guidance, step=0.1, label="Guidance (1 none)")
    found["sampler"] = gr.Dropdown(list(model.samplers), value=sampler, label="Sampler")
    found["steps"] = gr.Slider(1, min(limits.max_steps, 1000), sample.steps, step=1, label="Steps")
    found["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)
    found["num"] = gr.Slider(1, limits.max_pictures, min(num, limits.max_pictures), step=1, label="Pictures")
    return list(found), list(found.values())


def _outcome() -> tuple[gr.HTML, gr.Image]:
    with gr.Column():
        watched = gr.HTML(elem_classes="watched")
        made = gr.Image(label="Pictures", format="png", interactive=False, buttons=["download", "fullscreen"])
    return watched, made


def _runs(start: gr.Button, stop: gr.Button, run: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    event = start.click(run, inputs, outputs, show_progress="hidden", **QUIET)
    stop.click(None, None, None, cancels=[event], **QUIET)


def _settings(names: list[str], values: Any) -> Settings:
    given = {name: value for name, value in zip(names, values) if value is not None}
    if "labels" in given:
        given["labels"] = () if given["labels"] == ALL else (given["labels"],)
    return Settings(**given)


async def _frames(model: Model, line: Line, make: Callable[[], Job]) -> AsyncGenerator[Frame | int, None]:
    """How many requests are ahead, and then the frames; what is wrong is said in the page."""
    try:
        job = make()
        async with line.join() as ticket:
            async for ahead in ticket.wait():
                yield ahead
            async with aclosing(worked(job, seconds=model.limits.max_seconds)) as frames:
                async for frame in frames:
                    yield frame
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise gr.Error(html.escape(found), print_exception=False) from None
    except (InputError, BusyError) as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from None


async def _outcomes(model: Model, line: Line, make: Callable[[], Job]) -> AsyncGenerator[Outcome, None]:
    """What the two components of `_outcome` show."""
    shown, frame = 0.0, None
    async with aclosing(_frames(model, line, make)) as frames:
        async for found in frames:
            if isinstance(found, int):
                yield f"Waiting: {found} before you, and {line.at_once} at work", gr.skip()
                continue
            frame = found
            if time.monotonic() - shown >= SHOWN_EVERY:
                yield await to_thread.run_sync(_as_html, frame), gr.skip()
                shown = time.monotonic()
    assert frame is not None
    yield await to_thread.run_sync(_as_html, frame), _plain(_tiled(frame.pictures))


def _as_html(frame: Frame) -> str:
    picture = base64.b64encode(encode_png(_tiled(frame.pictures))).decode()
    return f'<p>after {frame.done} steps</p><img alt="the pictures so far" src="data:image/png;base64,{picture}">'


def _tiled(pictures: np.ndarray) -> np.ndarray:
    return grid(pictures, min_tile=128)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    factor = max(1, round(EDITED / max(picture.shape[:2])))
    return _plain(picture.repeat(factor, axis=0).repeat(factor, axis=1))


def _plain(picture: np.ndarray) -> np.ndarray:
    """As Gradio takes it: grey without a dimension of channels."""
    return picture[..., 0] if picture.shape[2] == 1 else picture


def _known(drawn: np.ndarray | None, shape: tuple[int, int, int]) -> np.ndarray:
    """1 where nothing was drawn, `[H, W, 1]`."""
    if drawn is None or not drawn.any():
        raise InputError("nothing is drawn over the image: draw where it is to be painted anew")
    mask = Image.fromarray(drawn)
    return images.mask_of(mask, mask.size, shape)


def _saying(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, whose `InputError` is said in the page."""

    def said(*args: Any) -> Any:
        try:
            return handler(*args)
        except InputError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return said
