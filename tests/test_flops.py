"""Multiply-adds: the counter against arithmetic, then networks against what their papers say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_table import shapes

from jaxdiff.flops import multiply_adds
from jaxdiff.models import DIT_SIZES, DiT, UNet

A, B = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)


def conv(x, kernel, **options):
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def with_its_own_gradient(function):
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda a, b: (function(a, b), None), lambda _, y: (y, y))
    return wrapped


IMAGE = np.ones((2, 8, 8, 6), np.float32)
PROGRAMS = {
    "product": (jnp.matmul, (A, B), 3 * 5 * 7),
    "batched": (lambda a, b: jnp.einsum("nij,njk->nik", a, b), (np.ones((4, 3, 5)), np.ones((4, 5, 7))), 4 * 3 * 5 * 7),
    "convolution": (lambda x, k: conv(x, k, window_strides=(1, 1), padding="SAME"), (IMAGE, np.ones((3, 3, 6, 4), np.float32)), 2 * 64 * 4 * 9 * 6),
    "strided": (lambda x, k: conv(x, k, window_strides=(2, 2), padding="SAME"), (IMAGE, np.ones((3, 3, 6, 4), np.float32)), 2 * 16 * 4 * 9 * 6),
    "in groups": (lambda x, k: conv(x, k, window_strides=(1, 1), padding="SAME", feature_group_count=2), (IMAGE, np.ones((3, 3, 3, 4), np.float32)), 2 * 64 * 4 * 9 * 3),
    "loop": (lambda a: jax.lax.scan(lambda c, _: (c @ c, None), a, None, length=6)[0], (A @ A.T,), 6 * 27),
    "nested": (jax.jit(jax.checkpoint(with_its_own_gradient(jnp.matmul))), (A, B), 3 * 5 * 7),
    "the dearer branch": (lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a), (A @ A.T,), 2 * 27),
    "gradient": (lambda a, b: jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), argnums=(0, 1))(a, b), (A, B), 3 * 3 * 5 * 7),
    "none": (jnp.add, (A, A), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_counter_counts(name):
    function, args, expected = PROGRAMS[name]
    assert multiply_adds(function, *args) == expected


@pytest.fixture
def plain(monkeypatch):
    """Counted as on a GPU: some sums are made with fewer multiply-adds on a CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def forward(net, size, channels):
    """Of one image."""
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, size, size, channels), (1,))]
    args.append({} if net.num_classes is None else {"label": jax.ShapeDtypeStruct((1,), jnp.int32)})
    return multiply_adds(net.apply, shapes(net, *args), *args)


@pytest.mark.parametrize(
    ("name", "scan", "giga"),
    [("S", False, 6.06), ("S", True, 6.06), ("B", True, 23.01), ("L", True, 80.71), ("XL", True, 118.64)],
)
def test_dits_need_what_the_paper_says(name, scan, giga):
    """arXiv 2212.09748, table 4: of 32x32 latents in patches of 2, whose "flop" is a multiplication and an addition."""
    net = DiT(**DIT_SIZES[name], num_classes=1000, out_channels=8, scan=scan)  # a loop is quick to trace
    assert forward(net, 32, 4) / 1e9 == pytest.approx(giga, rel=0.002)


def test_ddpm_needs_what_was_measured(plain):
    """12.44 GFLOP an image of CIFAR-10, of two a multiply-add."""
    net = UNet(128, (1, 2, 2, 2), 2, (16,), scale_shift=False, resample_in_block=False)
    assert 2 * forward(net, 32, 3) / 1e9 == pytest.approx(12.44, rel=0.002)


def test_adm_needs_what_was_measured(plain):
    """219 GFLOP an image of 64x64."""
    net = UNet(192, (1, 2, 3, 4), 3, (32, 16, 8), head_channels=64, num_classes=1000, out_channels=6)
    assert 2 * forward(net, 64, 3) / 1e9 == pytest.approx(219, rel=0.002)
