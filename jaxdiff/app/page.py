"""The page: a tab for each kind of job, and one that tells how to program them."""

import base64
import html
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import gradio as gr
import numpy as np
from anyio import to_thread
from PIL import Image
from pydantic import ValidationError

from jaxdiff import build
from jaxdiff.app import api, images
from jaxdiff.app.limits import BusyError
from jaxdiff.app.line import Line, worked
from jaxdiff.app.model import Frame, Job, Model, Settings
from jaxdiff.data.images import encode_png, grid
from jaxdiff.samplers import RESAMPLINGS
from jaxdiff.typing import InputError

SHOWN_EVERY = 0.1
"""Seconds between two pictures of the reverse process, at least."""
EDITED = 320
"""Pixels of the side of the image that a mask is drawn on, about."""
STYLE = ".watched img { image-rendering: pixelated; min-width: 256px; max-width: 100%; }"
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none that a browser must fetch
EVENT: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "show_progress": "hidden"}
"""Of the page's own events: who programs uses the API, and what is sent is checked by us, who can say what is wrong."""

ALL = -2
"""Of a label: every class in turn."""

Given = TypeVar("Given", bound=Settings)
Outcome = tuple[str, Any]
"""What is shown while it is made, and the picture in the end."""


class Inpainting(Settings):
    """Those of its tab."""

    resamplings: int


class Denoising(Settings):
    """Those of its tab."""

    estimated: bool
    noise: float
    mean: bool


def page(model: Model, line: Line) -> gr.Blocks:
    """The page of a model, whose jobs wait in a line."""
    height, width, channels = model.spec.image_shape
    colour = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    with gr.Blocks(title=f"{model.name} - jaxdiff", analytics_enabled=False, delete_cache=(60, 600)) as blocks:
        gr.Markdown(f"# {model.name}\nPictures of {width}x{height} pixels, {colour}.")
        with gr.Tab("Pictures"):
            _pictures(model, line)
        with gr.Tab("Inpaint"):
            _inpaint(model, line)
        with gr.Tab("Denoise"):
            _denoise(model, line)
        with gr.Tab("Over HTTP"):
            gr.Markdown(api.MANUAL)
    blocks.state_session_capacity = 1000  # visitors whose image is kept, the last ones
    blocks.queue(default_concurrency_limit=None, max_size=1000, api_open=False)  # all wait in our line, with the API's
    return blocks  # type: ignore[no-any-return]  # of __enter__


def _pictures(model: Model, line: Line) -> None:
    with gr.Row():
        with gr.Column():
            controls = _controls(model, sampler=model.config.sample.sampler, num=4)
        make, stop, watched, made = _outcome("Make pictures")

    def job(*values: Any) -> Job:
        return model.sample(_read(Settings, controls, values))

    run = _run(model, line, job)
    _stops(stop, watched, make.click(run, list(controls.values()), [watched, made], **EVENT))


def _inpaint(model: Model, line: Line) -> None:
    image = gr.State(None, time_to_live=3600)  # as the network sees it; the editor has it enlarged
    with gr.Row():
        with gr.Column():
            with gr.Row():
                upload = gr.UploadButton("Upload an image", file_types=["image"])
                own = gr.Button("Take one of the network's")
            drawing = gr.ImageEditor(
                label="Draw over what is to be painted anew", format="png", sources=(), transforms=(), layers=False,
                interactive=True, height=EDITED + 160,
                brush=gr.Brush(default_size=EDITED // 8, colors=["#ff3030"], color_mode="fixed"),
            )  # fmt: skip
            controls = _controls(model, sampler="ddpm", num=4, of_image=True)
            controls["resamplings"] = gr.Slider(
                1, 20, RESAMPLINGS, step=1, label="Resamplings", info="RePaint goes every step so often"
            )
        paint, stop, watched, made = _outcome("Inpaint")

    def show(picture: np.ndarray) -> tuple[np.ndarray, Any]:
        return picture, {"background": _enlarged(picture), "layers": [], "composite": None}

    def uploaded(file: Any) -> tuple[np.ndarray, Any]:
        with _saying():
            found = images.opened(images.content_of(_path(file)), "image", max_pixels=model.limits.max_pixels)
            return show(images.as_pixels(found, "image", model.spec.image_shape))

    async def made_one(*values: Any) -> AsyncIterator[tuple[Any, Any]]:
        frame = None
        async with aclosing(_frames(model, line, lambda: model.sample(_read(Settings, given, values)))) as frames:
            async for found in frames:
                frame = found[1]
                yield gr.skip(), gr.skip()  # where one who went away is noticed
        assert frame is not None
        yield show(frame.pictures[0])

    def job(image: np.ndarray | None, drawn: Any, *values: Any) -> Job:
        if image is None:
            raise InputError("no image: upload one, or take one of the network's")
        settings = _read(Inpainting, controls, values)
        return model.inpaint(settings, image, _known(drawn, image.shape), resamplings=settings.resamplings)

    upload.upload(uploaded, upload, [image, drawing], concurrency_limit=1, **EVENT)  # it decodes
    given: dict[str, Any] = {name: controls[name] for name in ("labels", "seed") if name in controls}
    taking = own.click(made_one, list(given.values()), [image, drawing], **EVENT)
    run = _run(model, line, job)
    painting = paint.click(run, [image, drawing, *controls.values()], [watched, made], **EVENT)
    _stops(stop, watched, taking, painting)


def _denoise(model: Model, line: Line) -> None:
    with gr.Row():
        with gr.Column():
            noisy = gr.Image(label="A noisy image", image_mode=None, sources=["upload"], height=240, buttons=[])
            estimated = gr.Checkbox(True, label="Estimate the noise")
            noise = gr.Slider(
                0.01, 2.0, 0.3, step=0.01, label="Its standard deviation (grey levels / 127.5)", interactive=False
            )
            mean = gr.Checkbox(False, label="The mean, by one call of the network, in place of draws")
            controls = _controls(model, sampler="ddpm", num=1, of_image=True, guidance=False)
            controls |= {"estimated": estimated, "noise": noise, "mean": mean}
        clean, stop, watched, made = _outcome("Denoise")

    def job(image: Any, *values: Any) -> Job:
        given = _read(Denoising, controls, values)
        if given.mean:
            given = given.model_copy(update={"sampler": None, "steps": None})
        level = None if given.estimated else given.noise
        return model.denoise(given, images.content_of(_path(image)), noise=level, mean=given.mean)

    estimated.change(lambda on: gr.update(interactive=on is not True), estimated, noise, **EVENT)
    run = _run(model, line, job)
    _stops(stop, watched, clean.click(run, [noisy, *controls.values()], [watched, made], **EVENT))


def _controls(
    model: Model, *, sampler: str, num: int, of_image: bool = False, guidance: bool = True
) -> dict[str, gr.components.Component]:
    """A component for each setting, by its name."""
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
    return found


def _outcome(action: str) -> tuple[gr.Button, gr.Button, gr.HTML, gr.Image]:
    """What begins it and what ends it, and below what is shown meanwhile and in the end."""
    with gr.Column():
        with gr.Row():
            start, stop = gr.Button(action, variant="primary"), gr.Button("Stop")
        watched = gr.HTML(elem_classes="watched")
        made = gr.Image(
            label="Pictures", format="png", interactive=False, visible=False, elem_classes="made",
            buttons=["download", "fullscreen"],
        )  # fmt: skip
    return start, stop, watched, made


def _stops(stop: gr.Button, watched: gr.HTML, *events: Any) -> None:
    stop.click(lambda: "<p>stopped</p>", None, watched, cancels=list(events), **EVENT)


def _read(form: type[Given], controls: dict[str, Any], values: Any) -> Given:
    """What the components say, whatever a program may have sent in their place."""
    given = {name: value for name, value in zip(controls, values) if value is not None}
    if given.get("labels") == ALL:
        given["labels"] = ()
    return form(**given)


def _path(file: Any) -> str:
    """Of an uploaded file."""
    path = file.get("path") if isinstance(file, dict) else None
    if not isinstance(path, str):
        raise InputError("no image: upload one")
    return path


async def _frames(model: Model, line: Line, make: Callable[[], Job]) -> AsyncGenerator[tuple[str, Frame | None], None]:
    """What is to be said, while it waits and with each frame; what is wrong is said in the page."""
    with _saying():
        job = make()
        async with line.join() as ticket:
            async for ahead in ticket.wait():
                yield f"Waiting: {ahead} before you, and {line.at_once} at work", None
            yield "begun; what is asked for the first time is compiled", None
            async with aclosing(worked(job, seconds=model.limits.max_seconds)) as frames:
                async for frame in frames:
                    yield f"after {frame.done} of {job.steps} steps{frame.note}", frame


def _run(model: Model, line: Line, job: Callable[..., Job]) -> Callable[..., AsyncIterator[Outcome]]:
    """An event's function, which does the job of its inputs: what the two components of `_outcome` show."""

    async def run(*inputs: Any) -> AsyncIterator[Outcome]:
        shown, frame = 0.0, None
        async with aclosing(_frames(model, line, lambda: job(*inputs))) as frames:
            async for text, frame in frames:
                if frame is None:
                    yield f"<p>{text}</p>", gr.update(visible=False)
                elif time.monotonic() - shown >= SHOWN_EVERY:
                    yield await to_thread.run_sync(_as_html, text, frame), gr.skip()
                    shown = time.monotonic()
        assert frame is not None
        yield f"<p>{text}</p>", gr.update(value=_plain(_tiled(frame.pictures)), visible=True)

    return run


def _as_html(text: str, frame: Frame) -> str:
    picture = base64.b64encode(encode_png(_tiled(frame.pictures))).decode()
    return f'<p>{text}</p><img alt="the pictures so far" src="data:image/png;base64,{picture}">'


def _tiled(pictures: np.ndarray) -> np.ndarray:
    return grid(pictures, min_tile=128)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    factor = max(1, round(EDITED / max(picture.shape[:2])))
    return _plain(picture.repeat(factor, axis=0).repeat(factor, axis=1))


def _plain(picture: np.ndarray) -> np.ndarray:
    """As Gradio takes it: grey without a dimension of channels."""
    return picture[..., 0] if picture.shape[2] == 1 else picture


def _known(drawn: Any, shape: tuple[int, ...]) -> np.ndarray:
    """1 where nothing was drawn, `[H, W, 1]`."""
    layers = drawn["layers"] if isinstance(drawn, dict) else []
    found = images.drawing_of([images.content_of(_path(layer)) for layer in layers[: images.MAX_LAYERS]])
    if found is None or not found.any():
        raise InputError("nothing is drawn over the image: draw where it is to be painted anew")
    mask = Image.fromarray(found)
    return images.mask_of(mask, mask.size, (shape[0], shape[1], shape[2]))


@contextmanager
def _saying() -> Iterator[None]:
    """Within it what is wrong is said in the page."""
    try:
        yield
    except ValidationError as error:
        raise gr.Error(html.escape(api.told(error.errors())), print_exception=False) from None
    except (InputError, BusyError) as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from None
