"""Two moons in JAX alone: parameters are a list, the network is a function of them.

python examples/two_moons_jax.py [--steps 3000] [--out two_moons_jax.png]
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import two_moons

from jaxdiff import DDIM, denoise, losses, prior, sample, schedules, time_sampling, timesteps, white_noise

SCHEDULE = schedules.Flow()


def init(key, sizes=(3, 128, 128, 128, 2)):
    """Weight and bias of each layer."""
    keys = jax.random.split(key, len(sizes) - 1)
    initial = jax.nn.initializers.lecun_normal()
    return [(initial(k, (m, n)), jnp.zeros(n)) for k, m, n in zip(keys, sizes, sizes[1:])]


def network(params, x, t):
    """The velocity, eps - x0, as the network predicts it: x [B, 2] and t [B] in (0, 1] -> [B, 2]."""
    h = jnp.concatenate([x, t[:, None]], axis=-1)
    for weight, bias in params[:-1]:
        h = jax.nn.silu(h @ weight + bias)
    weight, bias = params[-1]
    return h @ weight + bias


def loss(params, key, x0):
    """The mean squared error of the velocity over a batch, every example at a time and with noise of its own."""
    t_key, eps_key = jax.random.split(key)
    t = time_sampling.uniform_time(jax.random.split(t_key, len(x0)))
    eps = white_noise(eps_key, x0.shape)
    terms = losses.simple(x0, t, eps, model=partial(network, params), schedule=SCHEDULE, kind="velocity")
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

    params = init(key)
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
    predict = denoise.denoiser(partial(network, params), schedule=SCHEDULE, kind="velocity")
    x = prior(x_key, (n, 2), schedule=SCHEDULE)
    return sample(step_key, predict, DDIM(SCHEDULE), timesteps.uniform(50), x)


if __name__ == "__main__":
    given = two_moons.options(__file__)
    params = train(jax.random.key(0), two_moons.moons(10_000, seed=0), given.steps)
    two_moons.finish(generate(params, jax.random.key(1), 4000), given)
