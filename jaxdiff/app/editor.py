"""The editor that masks are drawn in: Gradio's, which would keep and decode whatever is sent to it."""

from typing import Any

import gradio as gr
import numpy as np
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs, EditorData

from jaxdiff.app import images
from jaxdiff.typing import InputError

MAX_LAYERS = 4
"""Of a drawing; the page's has one."""
MAX_PIXELS = 4_000_000
"""Of a layer, which is as large as the image it is drawn on."""
KEPT = 64 * 2**20
"""Bytes of drawings that were sent and not asked for yet, by closed windows say: the oldest are forgotten."""


def editor(**options: Any) -> gr.ImageEditor:
    """An image to draw on; its value is the drawing alone, uint8 `[h, w]` from 0 to 255, None if there is none.

    An instance with other methods, not a class: beside the file of a component's class Gradio writes a stub.

    Args:
      options: of `gr.ImageEditor`.
    """
    made = gr.ImageEditor(**options)
    keep, kept = made.accept_blobs, made.blob_storage

    def preprocess(payload: EditorData | None) -> np.ndarray | None:
        if payload is None:
            return None
        if payload.id is None:
            sent: list[bytes | None] = [images.content_of(layer.path) for layer in payload.layers[:MAX_LAYERS]]
        else:
            asked = kept.pop(payload.id, None)
            sent = [] if asked is None else asked.layers
        try:
            drawn = [_alpha(content) for content in sent if content]
            if len({layer.shape for layer in drawn}) > 1:
                raise InputError("the drawing: its layers differ in size")
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return np.max(drawn, axis=0) if drawn else None

    @server  # type: ignore[untyped-decorator]
    def accept_blobs(data: AcceptBlobs) -> None:
        kind, index = data.data["type"], str(data.data["index"])
        if kind == "layer" and index.isdecimal() and int(index) < MAX_LAYERS:  # nothing else is asked for
            keep(data)
        while len(kept) > 1 and sum(map(_size, kept.values())) > KEPT:
            del kept[next(iter(kept))]

    made.preprocess = preprocess  # type: ignore[method-assign, assignment]
    made.accept_blobs = accept_blobs
    return made


def _size(blobs: Any) -> int:
    return 1000 + sum(len(layer or b"") for layer in blobs.layers)


def _alpha(content: bytes) -> np.ndarray:
    picture = images.opened(content, "the drawing", max_pixels=MAX_PIXELS)
    return images.as_pixels(picture, "the drawing", (picture.height, picture.width, 4))[..., 3]
