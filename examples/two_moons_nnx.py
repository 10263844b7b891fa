"""Two moons with Flax NNX: the model is the module itself.

python examples/two_moons_nnx.py [--steps 3000] [--out two_moons_nnx.png]
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import two_moons
from flax import nnx

from jaxdiff import DDIM, denoise, losses, prior, sample, schedules, time_sampling, timesteps, white_noise

SCHEDULE = schedules.Flow()


class Network(nnx.Module):
    """The velocity, eps - x0, as it predicts it: x [B, 2] and t [B] in (0, 1] -> [B, 2]."""

    def __init__(self, rngs, width=128):
        self.hidden = nnx.List([nnx.Linear(m, width, rngs=rngs) for m in (3, width, width)])
        self.out = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x, t):
        h = jnp.concatenate([x, t[:, None]], axis=-1)
        for layer in self.hidden:
            h = nnx.silu(layer(h))
        return self.out(h)


def loss(net, key, x0):
    """The mean squared error of the velocity over a batch, every example at a time and with noise of its own."""
    t_key, eps_key = jax.random.split(key)
    t = time_sampling.uniform_time(jax.random.split(t_key, len(x0)))
    eps = white_noise(eps_key, x0.shape)
    terms = losses.simple(x0, t, eps, model=net, schedule=SCHEDULE, kind="velocity")
    return terms["loss"].mean()


@nnx.jit
def update(net, optimizer, key, data):
    """One step of the optimiser, which changes the network; the loss before it."""
    batch_key, loss_key = jax.random.split(key)
    x0 = jax.random.choice(batch_key, data, (512,))
    value, gradient = nnx.value_and_grad(loss)(net, loss_key, x0)
    optimizer.update(net, gradient)
    return value


def train(key, data, steps):
    """The network after so many updates."""
    net = Network(nnx.Rngs(key))
    optimizer = nnx.Optimizer(net, optax.adam(optax.cosine_decay_schedule(5e-3, steps)), wrt=nnx.Param)
    for i in range(steps):
        value = update(net, optimizer, jax.random.fold_in(key, i), data)
        if i % 500 == 0:
            print(f"step {i}: loss {value:.3f}")
    return net


@partial(nnx.jit, static_argnames="n")
def generate(net, key, n):
    """n points, from noise to data in 50 steps."""
    x_key, step_key = jax.random.split(key)
    predict = denoise.denoiser(net, schedule=SCHEDULE, kind="velocity")
    x = prior(x_key, (n, 2), schedule=SCHEDULE)
    return sample(step_key, predict, DDIM(SCHEDULE), timesteps.uniform(50), x)


if __name__ == "__main__":
    given = two_moons.options(__file__)
    net = train(jax.random.key(0), two_moons.moons(10_000, seed=0), given.steps)
    two_moons.finish(generate(net, jax.random.key(1), 4000), given)
