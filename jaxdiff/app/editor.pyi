"""The editor that masks are drawn in: Gradio's, which would keep and decode whatever is sent to it."""

from collections.abc import Iterable
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

from gradio.events import Dependency

class Editor(gr.ImageEditor):
    """An image to draw on; its value is the drawing alone, uint8 `[h, w]` from 0 to 255, None if there is none."""

    is_template = True  # the browser shows it as its parent

    def preprocess(self, payload: EditorData | None) -> np.ndarray | None:  # type: ignore[override]
        if payload is None:
            return None
        if payload.id is None:
            sent: Iterable[bytes | None] = (_read(layer.path) for layer in payload.layers[:MAX_LAYERS])
        else:
            kept = self.blob_storage.pop(payload.id, None)
            sent = [] if kept is None else kept.layers
        try:
            drawn = [_alpha(content) for content in sent if content]
            if len({layer.shape for layer in drawn}) > 1:
                raise InputError("the drawing: its layers differ in size")
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return np.max(drawn, axis=0) if drawn else None

    @server  # type: ignore[untyped-decorator]
    def accept_blobs(self, data: AcceptBlobs) -> None:
        """What a browser sends of a drawing before it asks for it; but for its layers it is thrown away."""
        kind, index = data.data["type"], str(data.data["index"])
        if kind == "layer" and not (index.isdecimal() and int(index) < MAX_LAYERS):
            return
        if kind != "layer":
            data = data.model_copy(update={"files": [("", b"")]})
        super().accept_blobs(data)
        while len(self.blob_storage) > 1 and sum(map(_size, self.blob_storage.values())) > KEPT:
            del self.blob_storage[next(iter(self.blob_storage))]
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


def _size(blobs: Any) -> int:
    return 1000 + sum(len(layer or b"") for layer in blobs.layers)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _alpha(content: bytes) -> np.ndarray:
    picture = images.opened(content, "the drawing", max_pixels=MAX_PIXELS)
    return images.as_pixels(picture, "the drawing", (picture.height, picture.width, 4))[..., 3]