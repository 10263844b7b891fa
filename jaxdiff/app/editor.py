"""The editor that masks are drawn in: Gradio's, which would decode whatever is sent to it."""

from typing import Any

import gradio as gr
import numpy as np
from gradio.components.image_editor import EditorData

from jaxdiff.app import images
from jaxdiff.typing import InputError

MAX_LAYERS = 4
"""Of a drawing; the page's has one."""
MAX_PIXELS = 4_000_000
"""Of a layer, which is as large as the image it is drawn on."""


def editor(**options: Any) -> gr.ImageEditor:
    """An image to draw on; its value is the drawing alone, uint8 `[h, w]` from 0 to 255, None if there is none.

    An instance with another method, not a class: beside the file of a component's class Gradio writes a stub.

    Args:
      options: of `gr.ImageEditor`.
    """
    made = gr.ImageEditor(**options)

    def preprocess(payload: EditorData | None) -> np.ndarray | None:
        if payload is None:
            return None
        try:
            drawn = [_alpha(images.content_of(layer.path)) for layer in payload.layers[:MAX_LAYERS]]
            if len({layer.shape for layer in drawn}) > 1:
                raise InputError("the drawing: its layers differ in size")
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return np.max(drawn, axis=0) if drawn else None

    made.preprocess = preprocess  # type: ignore[method-assign, assignment]
    return made


def _alpha(content: bytes) -> np.ndarray:
    picture = images.opened(content, "the drawing", max_pixels=MAX_PIXELS)
    return images.as_pixels(picture, "the drawing", (picture.height, picture.width, 4))[..., 3]
