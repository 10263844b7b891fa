"""Checkpoints: all that was saved comes back bitwise, atomically, and sampling reads only what it needs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import InputError
from jaxdiff.train import init_state
from jaxdiff.train.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("standard_promotion")
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
KEY = jax.random.key(3)


def state_at(step, size=4):
    params = {"dense": {"kernel": jax.random.normal(jax.random.key(step), (size, 3)), "bias": jnp.ones(3)}}
    state = init_state(params, TX)
    _, opt_state = TX.update(params, state.opt_state, params)
    ema = {name: jax.tree.map(lambda p, i=i: p / i, params) for i, name in enumerate(("ema", "ema_0.05", "ema_0.1"), 3)}
    return state._replace(step=jnp.int32(step), ema=ema, opt_state=opt_state)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_state_key_and_place_in_the_data_come_back_bitwise(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state_at(5), KEY, data={"next_index": 17}, description={"config": 1})
    with Checkpoints(tmp_path / "c") as checkpoints:
        state, key, data = checkpoints.restore(jax.eval_shape(lambda: state_at(0)), jax.random.key(0))
    same(state, state_at(5))
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(KEY))
    assert data == {"next_index": 17}


def test_only_the_last_few_are_kept_and_each_can_be_sampled(tmp_path):
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_at(step), KEY, data={}, description={})
        checkpoints.save(state_at(3), KEY, data={}, description={})  # again: nothing happens
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 3]
        like = jax.eval_shape(lambda: state_at(0)).params
        assert checkpoints.restore_weights(like)[0] == 3
        step, ema = checkpoints.restore_weights(like, step=2)
        same(ema, state_at(2).ema["ema"])
        same(checkpoints.restore_weights(like, item="ema_0.05", step=2)[1], state_at(2).ema["ema_0.05"])
        same(checkpoints.restore_weights(like, item="params", step=2)[1], state_at(2).params)
        with pytest.raises(InputError, match=r"no checkpoint of step 9 in this run; there are 2, 3"):
            checkpoints.restore_weights(like, step=9)


def test_saving_and_then_donating_the_state_is_safe(tmp_path):
    """24 MB of state, overwritten in place many times while the save is under way."""
    state = state_at(1, size=500_000)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones_like(x), s), donate_argnums=0)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, KEY, data={}, description={})
        for _ in range(20):
            state = overwrite(state)
    with Checkpoints(tmp_path / "c") as checkpoints:
        like = jax.eval_shape(lambda: state_at(0, size=500_000))
        same(checkpoints.restore(like, KEY)[0], state_at(1, size=500_000))


def test_a_damaged_checkpoint_is_named_with_the_one_before_it(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step), KEY, data={}, description={})
    for file in (tmp_path / "c" / "2" / "ema").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    like = jax.eval_shape(lambda: state_at(0)).params
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        with pytest.raises(InputError, match=r"c/2: this checkpoint cannot be read .*There are also 1"):
            checkpoints.restore_weights(like)
        same(checkpoints.restore_weights(like, step=1)[1], state_at(1).ema["ema"])


@pytest.mark.parametrize("harm", ["cut", "delete", "change"])
def test_what_is_damaged_is_put_aside_and_said_and_the_one_before_it_is_restored(tmp_path, harm):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step), KEY, data={"n": step}, description={})
    file = max((p for p in (tmp_path / "c" / "2" / "rest").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = file.read_bytes()
    if harm == "delete":
        file.unlink()
    else:  # one bit in the middle, which no decoder need notice
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes(content[:middle] if harm == "cut" else changed)
    said = []
    with Checkpoints(tmp_path / "c", say=said.append) as checkpoints:
        assert file.name in checkpoints.damage(2)[0]
        assert checkpoints.damage(1) == []
        state, _, data = checkpoints.restore(jax.eval_shape(lambda: state_at(0)), KEY)
        same(state, state_at(1))
        assert data == {"n": 1}
        assert checkpoints.steps() == [1]
        checkpoints.save(state_at(2), KEY, data={"n": 2}, description={})  # trained again: its name is free
    assert "step 2 is damaged" in said[0]
    assert (tmp_path / "damaged" / "2").is_dir()
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.damage(2) == []


@pytest.mark.parametrize("content", ["", '{"los'])
def test_metrics_that_are_cut_cost_one_checkpoint_and_not_the_run(tmp_path, content):
    """orbax reads those of all steps when it opens the folder."""
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step), KEY, data={}, description={}, metrics={"loss": 1.0})
    (tmp_path / "c" / "2" / "metrics" / "metrics").write_text(content)
    with pytest.raises(InputError, match="damaged"), Checkpoints(tmp_path / "c", read_only=True):
        pass
    said = []
    with Checkpoints(tmp_path / "c", say=said.append) as checkpoints:
        same(checkpoints.restore(jax.eval_shape(lambda: state_at(0)), KEY)[0], state_at(1))
    assert "step 2 is damaged" in said[0]
    assert (tmp_path / "damaged" / "2").is_dir()
    (tmp_path / "c" / "1" / "metrics" / "metrics").write_text(content)
    with pytest.raises(InputError, match="damaged"), Checkpoints(tmp_path / "c"):
        pass
    assert (tmp_path / "c" / "1").is_dir()  # the only one is not moved: the next start would begin afresh


def test_a_metric_that_is_no_number_is_not_the_best(tmp_path):
    with Checkpoints(tmp_path / "c", keep=1, keep_best=1) as checkpoints:
        for step, loss in enumerate((3.0, 1.0, float("nan"), 2.0, 4.0, 5.0), 1):
            checkpoints.save(state_at(step), KEY, data={}, description={}, metrics={"loss": loss})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 6]


def test_weights_with_a_changed_bit_are_not_sampled(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step, size=64), KEY, data={}, description={})
    like = jax.eval_shape(lambda: state_at(0, size=64)).params
    file = max((p for p in (tmp_path / "c" / "2" / "ema").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        with pytest.raises(InputError, match=r"ema/.* has other bytes than were written\)\. There are also 1"):
            checkpoints.restore_weights(like)
        same(checkpoints.restore_weights(like, item="params")[1], state_at(2, size=64).params)  # of which all is well


def test_if_none_can_be_read_all_are_named_and_nothing_is_moved(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step), KEY, data={}, description={})
    for step in (1, 2):
        (tmp_path / "c" / str(step) / "data" / "metadata").write_text("{")
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(InputError, match=r"(?s)no checkpoint can be read:\n  step 2: data/.*\n  step 1: data/"):
            checkpoints.restore(jax.eval_shape(lambda: state_at(0)), KEY)
        assert checkpoints.steps() == [1, 2]
    assert not (tmp_path / "damaged").exists()


def test_the_best_are_kept_beside_the_last(tmp_path):
    with Checkpoints(tmp_path / "c", keep=2, best="eval_loss", keep_best=2) as checkpoints:
        for step, loss in enumerate((5.0, 1.0, 3.0, 2.0, 4.0, None, 6.0), 1):
            metrics = {} if loss is None else {"eval_loss": loss}
            checkpoints.save(state_at(step), KEY, data={}, description={}, metrics=metrics)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 4, 6, 7]
        assert checkpoints.metrics(4) == {"eval_loss": 2.0}


def test_no_checkpoint_is_said_and_nothing_is_made(tmp_path):
    with pytest.raises(InputError, match="no checkpoint in this run"):
        Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    assert not (tmp_path / "run").exists()
