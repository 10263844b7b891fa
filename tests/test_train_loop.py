"""The loop: callbacks at their steps, asynchronous metrics, and no state saved behind a NaN."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import InputError
from jaxdiff.train import NonFiniteLossError, fit, init_state, pmapped, train_step
from jaxdiff.train.loop import Every

KEY = jax.random.key(0)
TX = optax.sgd(0.1)


def loss_fn(params, batch, keys):
    return {"loss": (params["w"] - batch["image"][:, 0]) ** 2}


def stream(bad=None):
    """Batches 1, 2, 3, ...; the one numbered `bad` is NaN."""
    for k in itertools.count(1):
        yield {"image": np.full((4, 1), np.nan if k == bad else k, np.float32)}


def run(*, steps, bad=None, every=3, per_call=1, start=0):
    seen, called = [], []
    fit(
        init_state({"w": jnp.float32(0)}, TX)._replace(step=jnp.int32(start)),
        stream(bad),
        pmapped(partial(train_step, loss_fn=loss_fn, tx=TX)),
        KEY,
        steps=steps,
        steps_per_call=per_call,
        on_metrics=lambda step, values: seen.append((step, values["loss"])),
        callbacks=[Every(every, lambda state, step: called.append((step, int(state.step), len(seen))))],
    )
    return seen, called


@pytest.mark.parametrize("per_call", [1, 2, 4])
def test_every_step_is_reported_once_in_order_with_the_loss_of_that_step(per_call):
    seen, _ = run(steps=8, every=4, per_call=per_call)
    w, expected = 0.0, []
    for k in range(1, 9):
        expected.append((w - k) ** 2)
        w -= 0.1 * 2 * (w - k)
    assert [step for step, _ in seen] == list(range(1, 9))
    np.testing.assert_allclose([loss for _, loss in seen], expected, rtol=1e-5)


def test_callbacks_come_at_multiples_and_at_the_end_after_all_metrics():
    _, called = run(steps=8)
    assert called == [(3, 3, 3), (6, 6, 6), (8, 8, 8)]


@pytest.mark.parametrize("bad", [1, 5, 6, 8])
def test_nan_stops_before_anything_behind_it_is_saved_and_names_the_step(bad):
    called = []
    with pytest.raises(NonFiniteLossError, match=f"not finite at step {bad} "):
        fit(
            init_state({"w": jnp.float32(0)}, TX),
            stream(bad),
            pmapped(partial(train_step, loss_fn=loss_fn, tx=TX)),
            KEY,
            steps=8,
            on_metrics=lambda *_: None,
            callbacks=[Every(3, lambda state, step: called.append((step, float(state.params["w"]))))],
        )
    assert [step for step, _ in called] == [step for step in (3, 6, 8) if step < bad]
    assert np.isfinite([w for _, w in called]).all()


def test_steps_per_call_must_divide_also_the_step_to_start_from():
    with pytest.raises(InputError, match="3 does not divide 8"):
        run(steps=8, per_call=3)
    with pytest.raises(InputError, match="5 does not divide 3"):
        run(steps=13, per_call=5, every=5, start=3)
