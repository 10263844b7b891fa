"""Two moons with Equinox: the model is the module itself, a pytree, mapped over the batch.

pip install -e '.[examples]' && python examples/two_moons_equinox.py [--steps 3000] [--out two_moons_equinox.png]
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import two_moons

from jaxdiff import DDIM, denoise, losses, prior, sample, schedules, time_sampling, timesteps, white_noise

SCHEDULE = schedules.Flow()


class Network(eqx.Module):
    """The velocity, eps - x0, as it predicts it: x [B, 2] and t [B] in (0, 1] -> [B, 2]."""

    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(3, 2, width_size=128, depth=3, activation=jax.nn.silu, key=key)

    def __call__(self, x, t):
        return jax.vmap(self.mlp)(jnp.concatenate([x, t[:, None]], axis=-1))


def loss(net, key, x0):
    """The mean squared error of the velocity over a batch, every example at a time and with noise of its own."""
    t_key, eps_key = jax.random.split(key)
    t = time_sampling.uniform_time(jax.random.split(t_key, len(x0)))
    eps = white_noise(eps_key, x0.shape)
    terms = losses.simple(x0, t, eps, model=net, schedule=SCHEDULE, kind="velocity")
    return terms["loss"].mean()


def train(key, data, steps):
    """The network after so many updates."""
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    @eqx.filter_jit
    def update(net, state, key, data):
        batch_key, loss_key = jax.random.split(key)
        x0 = jax.random.choice(batch_key, data, (512,))
        value, gradient = eqx.filter_value_and_grad(loss)(net, loss_key, x0)
        updates, state = tx.update(gradient, state)
        return eqx.apply_updates(net, updates), state, value

    net = Network(key)
    state = tx.init(eqx.filter(net, eqx.is_inexact_array))
    for i in range(steps):
        net, state, value = update(net, state, jax.random.fold_in(key, i), data)
        if i % 500 == 0:
            print(f"step {i}: loss {value:.3f}")
    return net


@eqx.filter_jit
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
