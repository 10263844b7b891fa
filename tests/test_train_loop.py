"""The loop: callbacks at their steps, asynchronous metrics, updates that are skipped, data that fail."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import InputError
from jaxdiff.train import DataError, Feed, NonFiniteLossError, fit, init_state, pmapped, train_step
from jaxdiff.train.loop import Every
from jaxdiff.train.watchdog import Watchdog

KEY = jax.random.key(0)
TX = optax.sgd(0.1)


def loss_fn(params, batch, keys):
    return {"loss": (params["w"] - batch["image"][:, 0]) ** 2}


PARALLEL = pmapped(partial(train_step, loss_fn=loss_fn, tx=TX))


class Stream:
    """Batches 1, 2, 3, ...; those numbered `bad` are NaN, and from `gone` on there are none."""

    def __init__(self, bad=(), gone=10**9):
        self.k, self.bad, self.gone = 0, bad, gone

    def __next__(self):
        self.k += 1
        if self.k >= self.gone:
            raise OSError("the disk has gone")
        return {"image": np.full((4, 1), np.nan if self.k in self.bad else self.k, np.float32)}

    def get_state(self):
        return {"next_index": self.k}


def run(*, steps, bad=(), gone=10**9, every=3, per_call=1, start=0, **options):
    seen, called, places = [], [], []

    def callback(state, step):
        called.append((step, int(state.step), len(seen), float(state.params["w"])))
        places.append(feed.place()["next_index"])

    with Feed(Stream(bad, gone), PARALLEL.feed, steps_per_call=per_call) as feed:
        fit(
            init_state({"w": jnp.float32(0)}, TX)._replace(step=jnp.int32(start)),
            feed,
            PARALLEL.run,
            KEY,
            steps=steps,
            steps_per_call=per_call,
            on_metrics=lambda step, values: seen.append((step, values["loss"])),
            callbacks=[Every(every, callback)],
            **options,
        )
    assert places == [step - start for step, *_ in called]  # however far the reading is ahead
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
    assert [c[:3] for c in called] == [(3, 3, 3), (6, 6, 6), (8, 8, 8)]


@pytest.mark.parametrize("bad", [1, 5, 6, 8])
def test_without_skipping_nan_stops_and_names_the_step(bad):
    with pytest.raises(NonFiniteLossError, match=f"not finite at step {bad}:"):
        run(steps=8, bad=[bad])


def test_updates_that_are_not_finite_are_skipped_counted_and_said():
    said = []
    seen, called = run(steps=9, bad=[2, 3, 6], skip_limit=2, say=said.append)
    w, after = 0.0, []
    for k in range(1, 10):
        w -= 0 if k in (2, 3, 6) else 0.1 * 2 * (w - k)
        after.append(w)
    np.testing.assert_allclose([c[3] for c in called], [after[2], after[5], after[8]], rtol=1e-5)
    assert [step for step, loss in seen if not np.isfinite(loss)] == [2, 3, 6]
    assert [message.split(":")[0] for message in said] == ["step 2", "step 3", "step 6"]
    assert "(2 in a row; after 2 training stops)" in said[1]
    assert "(1 in a row" in said[2]


def test_one_more_than_the_limit_in_a_row_ends_training():
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 5, nor at the 2 before"):
        run(steps=9, bad=[1, 3, 4, 5], skip_limit=2)


def test_data_that_fail_leave_the_state_behind_the_last_step_that_had_them():
    with pytest.raises(DataError, match="the data of step 6 could not be read") as caught:
        run(steps=9, gone=6)
    assert str(caught.value.__cause__) == "the disk has gone"
    assert int(caught.value.state.step) == 5
    w = 0.0
    for k in range(1, 6):
        w -= 0.1 * 2 * (w - k)
    np.testing.assert_allclose(caught.value.state.params["w"], w, rtol=1e-5)


def test_a_stop_is_after_a_whole_call_and_all_its_metrics():
    asked = iter([False] * 4 + [True] * 9)
    seen, _ = run(steps=20, per_call=2, every=2, stop=lambda: next(asked))
    assert len(seen) == 8


def test_steps_per_call_must_divide_also_the_step_to_start_from():
    with pytest.raises(InputError, match="3 does not divide 8"):
        run(steps=8, per_call=3)
    with pytest.raises(InputError, match="5 does not divide 3"):
        run(steps=13, per_call=5, every=5, start=3)


class Late:
    """A number of a step that takes a second."""

    def __init__(self, value):
        self.value = value

    def __array__(self, *args, **options):
        time.sleep(1)
        return np.asarray(self.value)


@pytest.mark.parametrize("slow", ["data", "step"])
def test_a_step_that_hangs_is_said_while_it_does_and_no_other(monkeypatch, slow):
    monkeypatch.setattr("jaxdiff.train.loop.Watchdog", partial(Watchdog, least=0.3))
    said = []

    class Slow(Stream):
        def __next__(self):
            if slow == "data" and self.k == 20:
                time.sleep(1)
            return super().__next__()

    def run_steps(state, batch, key):
        step = int(state.step) + 1
        state, metrics = PARALLEL.run(state, batch, key)
        return state, (metrics | {"loss": Late(metrics["loss"])} if slow == "step" and step == 21 else metrics)

    with Feed(Slow(), PARALLEL.feed, steps_per_call=1) as feed:
        fit(
            init_state({"w": jnp.float32(0)}, TX), feed, run_steps, KEY,
            steps=30, on_metrics=lambda *_: None, say=lambda message: said.append((time.monotonic(), message)),
        )  # fmt: skip
    (begun, first), (ended, second) = said
    assert first.startswith(
        ("reading the data of " if slow == "data" else "") + "step 21 has taken 0 s so far, 10 times the median"
    )
    assert second == "it went on after 1 s"
    assert ended - begun > 0.4  # it was said before the end
