"""The pure step and its parallel form, against numpy, optax and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import InputError
from jaxdiff.noise import example_keys, white_noise
from jaxdiff.train import init_state, pmapped, train_step
from jaxdiff.train.ema import ema_decay_at, exponential, power
from jaxdiff.train.parallel import per_device, replicate, shard

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
BATCHES = [{"image": rng.standard_normal((8, 3)).astype(np.float32)} for _ in range(6)]


def loss_fn(params, batch, keys):
    """A regression on noised inputs: what it draws shows in the loss."""
    x = batch["image"] + white_noise(keys, batch["image"].shape)
    error = x @ params["w"] - batch["image"].sum(1)
    return {"loss": error**2, "absolute": jnp.abs(error)}


def start(tx):
    return init_state({"w": jnp.arange(3.0)}, tx)


def test_the_mean_over_the_batch_is_what_is_minimised():
    """One SGD step against the gradient written out in numpy."""
    batch, tx = BATCHES[0], optax.sgd(0.1)
    state, metrics = train_step(start(tx), batch, KEY, loss_fn=loss_fn, tx=tx)
    keys = example_keys(jax.random.fold_in(KEY, 0), jnp.arange(8))
    x = batch["image"] + np.asarray(white_noise(keys, batch["image"].shape))
    error = x @ np.arange(3.0) - batch["image"].sum(1)
    gradient = (2 * error[:, None] * x).mean(0)
    np.testing.assert_allclose(state.params["w"], np.arange(3.0) - 0.1 * gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (error**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["absolute"], np.abs(error).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(metrics["param_norm"], np.linalg.norm(state.params["w"]), rtol=1e-5)
    assert int(state.step) == 1


def test_ema_warms_up_then_averages_with_its_decay():
    tx, averages = optax.sgd(0.01), {"ema": exponential(0.3)}
    state, ema = start(tx), np.arange(3.0)
    for k, batch in enumerate(BATCHES):
        state, _ = train_step(state, batch, KEY, loss_fn=loss_fn, tx=tx, averages=averages)
        decay = min(0.3, (1 + k) / (10 + k))
        ema = decay * ema + (1 - decay) * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema["ema"]["w"], ema, rtol=1e-5)
    assert float(ema_decay_at(jnp.int32(10**7), decay=0.9999)) == np.float32(0.9999)


def test_several_averages_at_once_and_each_is_the_one_it_would_be_alone():
    """That of gamma = 1 is the mean of the parameters after each update k, weighted by k^2 - (k - 1)^2."""
    tx, averages = optax.sgd(0.01), {"ema": exponential(0.3), "power": power((2 / 36) ** 0.5)}
    state = init_state({"w": jnp.arange(3.0)}, tx, averages)
    alone = init_state({"w": jnp.arange(3.0)}, tx)
    seen = []
    for batch in BATCHES:
        state, _ = train_step(state, batch, KEY, loss_fn=loss_fn, tx=tx, averages=averages)
        alone, _ = train_step(alone, batch, KEY, loss_fn=loss_fn, tx=tx, averages={"ema": exponential(0.3)})
        seen.append(np.asarray(state.params["w"], np.float64))
    np.testing.assert_array_equal(state.ema["ema"]["w"], alone.ema["ema"]["w"])
    k = np.arange(1, 7)
    np.testing.assert_allclose(state.ema["power"]["w"], np.average(seen, axis=0, weights=2 * k - 1), rtol=1e-5)
    with pytest.raises(InputError, match=r"averages ema, power: the state has ema; make it by init_state"):
        train_step(alone, BATCHES[0], KEY, loss_fn=loss_fn, tx=tx, averages=averages)


def test_every_step_draws_afresh_and_every_example_its_own():
    tx = optax.sgd(0.0)
    state = start(tx)
    losses = []
    for _ in range(3):
        state, metrics = train_step(state, BATCHES[0], KEY, loss_fn=loss_fn, tx=tx)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3
    repeated = {"image": np.repeat(BATCHES[0]["image"][:1], 8, axis=0)}
    keys = example_keys(jax.random.fold_in(KEY, 0), jnp.arange(8))
    assert len(set(np.asarray(loss_fn(state.params, repeated, keys)["loss"]).tolist())) == 8


def run(run_steps, tx, per_call):
    state = start(tx)
    losses = []
    for i in range(0, 6, per_call):
        state, metrics = run_steps(state, shard(BATCHES[i : i + per_call], devices=jax.local_device_count()), KEY)
        losses.extend(np.asarray(metrics["loss"]).tolist())
    return state, losses


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("per_call", [1, 2, 3])
def test_several_steps_in_a_call_are_the_single_steps(per_call):
    tx = optax.adam(0.1)
    state, losses = start(tx), []
    for batch in BATCHES:
        state, metrics = jax.jit(partial(train_step, loss_fn=loss_fn, tx=tx))(state, batch, KEY)
        losses.append(float(metrics["loss"]))
    other, other_losses = run(pmapped(partial(train_step, loss_fn=loss_fn, tx=tx)).run, tx, per_call)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), other, state)


def test_the_step_is_compiled_once():
    tx, traces = optax.sgd(0.1), []

    def step(*args, **kwargs):
        traces.append(args)
        return train_step(*args, loss_fn=loss_fn, tx=tx, **kwargs)

    run_steps = pmapped(step).run
    state, key = replicate((start(tx), KEY))
    for batch in BATCHES:
        state, _ = run_steps(state, shard([batch], devices=1), key)
    assert int(state.step) == 6
    assert len(traces) == 1


def test_the_state_is_donated():
    tx = optax.sgd(0.1)
    state = start(tx)
    old = state.params["w"]
    pmapped(partial(train_step, loss_fn=loss_fn, tx=tx)).run(state, shard(BATCHES[:1], devices=1), KEY)
    assert old.is_deleted()


def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_do():
    with pytest.raises(InputError, match=r"batch size 10 cannot be shared evenly by 4 devices; use 8 or 12"):
        per_device(10, devices=4)
    with pytest.raises(InputError, match=r"use 4 "):
        per_device(3, devices=4)
    with pytest.raises(
        InputError, match=r"batch size 20 cannot be shared evenly by 4 devices in 2 parts; use 16 or 24"
    ):
        per_device(20, devices=4, parts=2)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_gradient_in_parts_is_the_gradient(parts):
    tx = optax.adam(0.1)
    whole, told = train_step(start(tx), BATCHES[0], KEY, loss_fn=loss_fn, tx=tx)
    split, also = train_step(start(tx), BATCHES[0], KEY, loss_fn=loss_fn, tx=tx, accumulate=parts)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), (split, also), (whole, told))


@pytest.mark.usefixtures("standard_promotion")
def test_an_update_that_is_not_finite_changes_nothing_but_the_number_of_the_step():
    tx = optax.adam(0.1)
    for value in (np.nan, np.inf, 1e30):  # the last: its square overflows
        bad = {"image": np.where(np.arange(8)[:, None] == 3, np.float32(value), BATCHES[0]["image"])}
        before, _ = train_step(start(tx), BATCHES[1], KEY, loss_fn=loss_fn, tx=tx)
        after, metrics = train_step(before, bad, KEY, loss_fn=loss_fn, tx=tx)
        assert metrics["skipped"] == 1
        for now, then in ((after.params, before.params), (after.opt_state, before.opt_state)):
            jax.tree.map(np.testing.assert_array_equal, now, then)
        again, metrics = train_step(after, BATCHES[2], KEY, loss_fn=loss_fn, tx=tx)
        assert metrics["skipped"] == 0
        assert np.isfinite(again.params["w"]).all()
        assert (again.params["w"] != after.params["w"]).any()
