"""Resizes against Pillow, and against what their formulas say where it can be said in a line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff import InputError
from jaxdiff.features import clean_bicubic, tf1_bilinear, torch_bilinear

RNG = np.random.default_rng(0)
SIZES = [((37, 60), 29), ((8, 5), 31), ((64, 64), 64), ((300, 17), 17), ((1, 2), 5), ((32, 32), 299), ((513, 300), 299)]


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_bicubic_is_pillows(shape, size):
    """Channel by channel in floating point, up and down; also where it overshoots."""
    x = (255 * (RNG.uniform(size=(2, *shape, 2)) < 0.5)).astype(np.float32)
    resized = [
        [np.asarray(Image.fromarray(x[i, ..., c]).resize((size, size), Image.BICUBIC)) for c in range(2)]
        for i in range(2)
    ]
    exact = np.moveaxis(np.array(resized), 1, -1)
    np.testing.assert_allclose(clean_bicubic(x, size), exact.clip(0, 255), rtol=0, atol=1e-3)
    if size == 299:
        assert exact.max() > 256  # it overshoots, and was cut off


@pytest.mark.parametrize(("shape", "size"), SIZES)
@pytest.mark.parametrize(("resize", "offset"), [(tf1_bilinear, 0.0), (torch_bilinear, 0.5)])
def test_bilinear_of_a_ramp_is_the_place_of_each_point(resize, offset, shape, size):
    """f(i) = i is reproduced wherever a point lies between two others, and constant beyond the ends."""
    height, width = shape
    x = np.arange(height)[:, None, None] + 1000.0 * np.arange(width)[None, :, None]
    rows, columns = (np.clip((np.arange(size) + offset) * n / size - offset, 0, n - 1) for n in shape)
    y = resize(x[None].astype(np.float32), size)[0, ..., 0]
    np.testing.assert_allclose(y, rows[:, None] + 1000 * columns[None], rtol=1e-6, atol=1e-3)


def test_by_halves():
    """Half the size: TensorFlow 1 takes every second point, torch the mean of each pair."""
    x = RNG.standard_normal((1, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(tf1_bilinear(x, 4), x[:, ::2, ::2])
    np.testing.assert_allclose(torch_bilinear(x, 4), x.reshape(1, 4, 2, 4, 2, 3).mean((2, 4)), atol=1e-6)


@pytest.mark.parametrize("resize", [clean_bicubic, tf1_bilinear, torch_bilinear])
def test_contracts(resize):
    """Its own size changes nothing; under jit the same; the dtype stays; a gradient there is."""
    x = jnp.asarray(RNG.uniform(0, 255, (2, 9, 9, 3)), jnp.float32)
    np.testing.assert_allclose(resize(x, 9), x, rtol=0, atol=1e-4)
    np.testing.assert_allclose(jax.jit(resize, static_argnums=1)(x, 5), resize(x, 5), rtol=1e-6)
    assert resize(x.astype(jnp.bfloat16), 5).dtype == jnp.bfloat16
    gradient = jax.grad(lambda x: resize(x, 12).sum())(x)
    assert jnp.abs(gradient).max() > 0
    for bad in (x[0], x[:, :0]):
        with pytest.raises(InputError, match=r"expected images \[B, H, W, C\]"):
            resize(bad, 4)
    with pytest.raises(InputError, match="a size of 1 or more"):
        resize(x, 0)
    with pytest.raises(InputError, match="got uint8: cast the images to float32"):
        resize(x.astype(jnp.uint8), 4)
