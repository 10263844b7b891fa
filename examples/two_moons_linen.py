"""Two moons with Flax linen: the model is `net.apply` with its parameters bound.

python examples/two_moons_linen.py [--steps 3000] [--out two_moons_linen.png]
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import two_moons
from flax import linen as nn

from jaxdiff import DDIM, denoise, losses, prior, sample, schedules, time_sampling, timesteps, white_noise

SCHEDULE = schedules.Flow()


class Network(nn.Module):
    """The velocity, eps - x0, as it predicts it: x [B, 2] and t [B] in (0, 1] -> [B, 2]."""

    width: int = 128

    @nn.compact
    def __call__(self, x, t):
        h = jnp.concatenate([x, t[:, None]], axis=-1)
        for _ in range(3):
            h = nn.silu(nn.Dense(self.width)(h))
        return nn.Dense(x.shape[-1])(h)


net = Network()


def loss(params, key, x0):
    """The mean squared error of the velocity over a batch, every example at a time and with noise of its own."""
    t_key, eps_key = jax.random.split(key)
    t = time_sampling.uniform_time(jax.random.split(t_key, len(x0)))
    eps = white_noise(eps_key, x0.shape)
    terms = losses.simple(x0, t, eps, model=partial(net.apply, params), schedule=SCHEDULE, kind="velocity")
    return terms["loss"].mean()


def train(key, data, steps):
    """Parameters after so many updates."""
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    @jax.jit
    def update(params, state, key, data):
        batch_key, loss_key = jax.random.split(key)
        x0 = jax.random.choice(batch_key, data, (512,))
        value, gradient = jax.value_and_grad(loss)(params, loss_key, x0)
        updates, state = tx.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params = net.init(key, data[:1], jnp.ones(1))
    state = tx.init(params)
    for i in range(steps):
        params, state, value = update(params, state, jax.random.fold_in(key, i), data)
        if i % 500 == 0:
            print(f"step {i}: loss {value:.3f}")
    return params


@partial(jax.jit, static_argnames="n")
def generate(params, key, n):
    """n points, from noise to data in 50 steps."""
    x_key, step_key = jax.random.split(key)
    predict = denoise.denoiser(partial(net.apply, params), schedule=SCHEDULE, kind="velocity")
    x = prior(x_key, (n, 2), schedule=SCHEDULE)
    return sample(step_key, predict, DDIM(SCHEDULE), timesteps.uniform(50), x)


if __name__ == "__main__":
    given = two_moons.options(__file__)
    params = train(jax.random.key(0), two_moons.moons(10_000, seed=0), given.steps)
    two_moons.finish(generate(params, jax.random.key(1), 4000), given)
