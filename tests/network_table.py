"""Every network, small, for the tests that hold for all of them; and random parameters and inputs for those."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.models import DiT, EDM2UNet, LucidrainsUNet, NCSNpp, UNet, UViT
from jaxdiff.noise import example_keys

BATCH = 4
KEYS = example_keys(jax.random.key(0), jnp.arange(BATCH))

# Of 8x8 images, three of them with labels; with dropout, for those calls that have a key.
DDPM = UNet(
    channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), groups=4, dropout=0.5,
    scale_shift=False, resample_in_block=False,
)  # fmt: skip
ADM = DDPM.clone(scale_shift=True, resample_in_block=True, head_channels=8, num_classes=3)
LUCIDRAINS = LucidrainsUNet(channels=8, multipliers=(1, 2), heads=2, head_channels=4, dropout=0.5)
FULL = LUCIDRAINS.clone(first_channels=6, full_attention_levels=(0,), memories=0, num_classes=3)
DDPMPP = NCSNpp(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), dropout=0.5)
NCSNPP = DDPMPP.clone(  # told of steps, as all here, not of logarithms: hence the scale
    embedding="fourier", fourier_scale=0.01, fir=True, progressive_input="residual", progressive="output_skip",
    num_classes=3,
)  # fmt: skip
DIT = DiT(width=24, depth=2, heads=2, patch=2, dropout=0.5)
MODERN_DIT = DIT.clone(norm="rms", mlp="swiglu", qk_norm=True, rotary=True, scan=True, num_classes=3)
UVIT = UViT(
    channels=8, multipliers=(1, 2), blocks=1, depth=2, heads=2, patch=2, groups=4, dropout=0.5, dropout_resolution=4,
    num_classes=3,
)  # fmt: skip
EDM2 = EDM2UNet(
    channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), head_channels=8, dropout=0.5, num_classes=3
)
NETS = {
    "ddpm": DDPM, "adm": ADM, "lucidrains": LUCIDRAINS, "lucidrains, full": FULL, "ddpm++": DDPMPP, "ncsn++": NCSNPP,
    "dit": DIT, "modern dit": MODERN_DIT, "uvit": UVIT, "edm2": EDM2,
}  # fmt: skip

C_NOISE = {EDM2UNet: (-1.5, -0.3, 0.2, 1.1)}
"""What a network is told of the time, where that is no number of a step."""

jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # compiles in a third of the time


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs(net, *, size=(8, 8)):
    cond = {} if net.num_classes is None else {"label": np.arange(BATCH) % (net.num_classes + 1)}
    return normal(BATCH, *size, 3), np.array(C_NOISE.get(type(net), (0, 10, 300, 999)), np.float32), cond


def shapes(net, *args):
    return jax.eval_shape(net.init, jax.random.key(0), *args)


def random_params(net, *args):
    """Parameters of the network's shapes, none of them zero, none of them special."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        size = 1.0 if leaf.ndim == 1 else 1 / math.sqrt(math.prod(leaf.shape[:-1]))
        return (size * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes(net, *args))


@functools.cache
def apply(net):
    """The compiled network, once per network."""
    return jit(net.apply)
