"""The smallest run that goes through everything (real digits, a transformer of one block, six steps), parameters of any
run, and seven images.

Pictures, which take a fifth of its time, are for those who ask: `--log.samples 10`. `U_NET` is the same of a U-Net of
one level, whose start takes half as long again.
"""

import jax
import numpy as np
from network_table import jit

from jaxdiff import build

CONFIG = """
from jaxdiff.config import Config, Diffusion, DiT, Log, Optim, Sample, Train, UNet

config = Config(
    diffusion=Diffusion(kind="v"),
    model=DiT(width=16, depth=1, heads=2, patch=2, dropout=0.1),
    optim=Optim(learning_rate=1e-3, warmup=2),
    train=Train(steps=6, batch_size=16, ema_decay=0.9),
    sample=Sample(steps=3, guidance=1.5),
    log=Log(every=1, samples=0, samples_every=3, checkpoint_every=2, keep=2),
)
"""
U_NET = CONFIG.replace(
    "DiT(width=16, depth=1, heads=2, patch=2, dropout=0.1)",
    "UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4, dropout=0.1)",
)

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (7, 5, 6, 1), np.uint8)
RGB = rng.integers(0, 256, (7, 5, 6, 3), np.uint8)
LABELS = np.array([0, 3, 1, 2, 1, 3, 0])


def first_params(config, spec, *, noise=0.0):
    """A run's parameters before any step, which predict 0, and so much noise upon them."""
    leaves, tree = jax.tree.flatten(jit(lambda key: build.init_params(config, spec, key))(jax.random.key(0)))
    rng = np.random.default_rng(0)
    return tree.unflatten([a + np.float32(noise) * rng.standard_normal(a.shape, np.float32) for a in leaves])


def everything(source):
    """All of a data source at once."""
    return source.gather(np.arange(len(source)))
