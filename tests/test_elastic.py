"""States on other devices than they were saved from; what a device holds under fsdp; one compilation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.tree_util import Partial
from processes import ROOT, finish, start_python
from test_parallel import NET

from jaxdiff import InputError, build
from jaxdiff import config as configs
from jaxdiff.train import init_state, pmapped, sharded, train_step
from jaxdiff.train.checkpoint import Checkpoints
from jaxdiff.train.parallel import AXIS, bytes_per_device, per_device, spread


def made(config, *, image_shape=(8, 8, 1), num_classes=10):
    """A config's step, how its state begins, and its shapes."""
    spec, tx = build.Spec(image_shape, num_classes), build.optimizer(config)
    averages = build.averages(config)
    step = partial(train_step, loss_fn=build.loss_fn(config, spec), tx=tx, averages=averages)
    initial = lambda key: init_state(build.init_params(config, spec, key), tx)
    return step, initial, jax.eval_shape(initial, jax.random.key(0))


def plain(tree):
    """Leaves by name, as numpy."""
    as_array = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return {
        jax.tree_util.keystr(path): np.asarray(as_array(x)) for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {"image": rng.integers(0, 256, (16, 8, 8, 1), np.uint8), "label": rng.integers(0, 10, 16).astype(np.int32)}


def lies(tree, shardings):
    """Whether each leaf's parts are on the devices that its sharding says, however that is written."""
    return all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), tree, shardings)))


def train_and_save(folder):
    """In a process of 8 devices: two steps by fsdp, compiled once; what a device holds; the state is saved."""
    assert jax.device_count() == 8
    step, initial, like = made(configs.load(folder / "net.py"))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiled.append(name) if name == "/jax/core/compile/backend_compile_duration" else None
    )
    for form in (pmapped, sharded):
        traced = []

        def counted(*args, traced=traced, **options):
            traced.append(1)
            return step(*args, **options)

        parallel = form(counted)
        state, key = parallel.make(initial, jax.random.key(1)), parallel.place(jax.random.key(2))
        assert lies(state, parallel.shardings(like))
        of_params = Partial(lambda params, key: initial(key)._replace(params=params), initial(jax.random.key(3)).params)
        for made_so, from_key in ((state, initial), (parallel.make(of_params, jax.random.key(1)), of_params)):
            expected = plain(from_key(jax.random.key(1)))
            assert all(np.array_equal(x, expected[name]) for name, x in plain(made_so).items())
        state, _ = parallel.run(state, parallel.feed([batch(0)]), key)
        assert sum(traced) == 1
        assert lies(state, parallel.shardings(like))
        feed = parallel.feed([batch(1)])
        compiled.clear()
        state, metrics = parallel.run(state, feed, key)
        assert sum(traced) == 1
        assert compiled == []
        assert lies(state, parallel.shardings(like))
        assert metrics["skipped"].tolist() == [0]

    assert held_by_each(state) == [bytes_per_device(like, parallel.shardings(like))] * 8
    with Checkpoints(folder / "c") as checkpoints:
        checkpoints.save(*parallel.to_global((state, key)), data={"n": 2}, description={})
    np.savez(folder / "expected.npz", **plain((state, key)))

    initial, like = made(configs.load(ROOT / "configs" / "digits.py"))[1:]  # not so small that the most is in biases
    whole, held = in_bytes(like), held_by_each(parallel.make(initial, jax.random.key(0)))
    assert max(held) <= whole / 6, (held, whole)


def in_bytes(like):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like))


def held_by_each(state):
    """Bytes of the arrays that are really there, by device."""
    held = dict.fromkeys(jax.devices(), 0)
    for x in jax.tree.leaves(state):
        for part in x.addressable_shards:
            held[part.device] += part.data.nbytes
    return list(held.values())


def restore(folder, devices):
    """In a process of that many devices: all comes back bitwise, lies as it should, and can be trained on."""
    assert jax.device_count() == devices
    step, _, like = made(configs.load(folder / "net.py"))
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    losses = []
    for form in (pmapped, sharded):
        parallel = form(step)
        with Checkpoints(folder / "c", read_only=True) as checkpoints:
            whole = checkpoints.restore(like, jax.random.key(0), shardings=parallel.shardings)
            state, key = parallel.from_global(whole[:2])
            assert whole[2] == {"n": 2}
            found = plain((state, key))
            assert found.keys() == expected.keys()
            for name, x in expected.items():
                assert found[name].dtype == x.dtype
                np.testing.assert_array_equal(found[name], x, err_msg=name)
            assert lies(state, parallel.shardings(like))
            _, params = checkpoints.restore_weights(like.params, item="params")
            for name, x in plain(params).items():
                np.testing.assert_array_equal(x, expected[f"[0].params{name}"])
        _, metrics = parallel.run(state, parallel.feed([batch(2)]), key)
        losses.append(float(metrics["loss"][0]))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    print(repr(losses[0]))


@pytest.mark.slow
def test_what_8_devices_saved_comes_back_on_4_2_and_1_and_no_second_call_compiles(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    code = "import test_elastic, pathlib; test_elastic.{}(pathlib.Path('.').absolute(){})"
    finish(start_python(tmp_path, code.format("train_and_save", ""), devices=8))
    losses = []
    for some in ((4, 2), (1,)):
        started = [start_python(tmp_path, code.format("restore", f", {n}"), devices=n) for n in some]
        losses += [float(finish(process).split()[-1]) for process in started]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "image_shape", "num_classes"),
    [
        ("cifar10_ddpm", (32, 32, 3), None),
        ("imagenet64_adm", (64, 64, 3), 1000),
        ("imagenet32_dit_b2", (32, 32, 3), 1000),
        ("digits", (8, 8, 1), 10),
    ],
)
def test_a_device_of_8_holds_at_most_a_sixth(name, image_shape, num_classes):
    config = configs.load(ROOT / "configs" / f"{name}.py")
    like = made(config, image_shape=image_shape, num_classes=num_classes)[2]
    whole = in_bytes(like)
    mesh = AbstractMesh((1, 8), ("data", "fsdp"))
    held = bytes_per_device(like, jax.tree.map(lambda x: NamedSharding(mesh, spread(x.shape, 8)), like))
    print(f"{name}: {held / 2**20:,.1f} of {whole / 2**20:,.1f} MiB, 1/{whole / held:.2f}")
    assert whole / 8 <= held <= whole / 6


@pytest.mark.parametrize(
    ("shape", "along"),
    [
        ((3, 3, 16, 32), 3),  # the largest that 8 divides
        ((3, 3, 32, 32), 3),  # the last of equals
        ((32, 4, 40, 3), 2),
        ((2048,), 0),
        ((1024,), None),  # too few numbers
        ((), None),
        ((3, 3, 129, 9), None),  # nothing that 8 divides
    ],
)
def test_an_array_is_spread_along_one_dimension_that_the_devices_divide(shape, along):
    found = tuple(spread(shape, 8))
    assert found == (() if along is None else tuple("fsdp" if i == along else None for i in range(len(shape))))
    assert tuple(spread(shape, 1)) == ()


def test_what_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"--shards 3: must divide the number of devices, 1"):
        sharded(None, shards=3)
    with pytest.raises(InputError, match=r"batch size 24 .* by 8 devices in 2 parts; use 16 or 32"):
        per_device(24, devices=8, parts=2)
    with pytest.raises(InputError, match=r"batch size 4 .* by 8 devices; use 8 "):
        per_device(4, devices=8)


def test_one_device_is_a_case_of_n():
    """pmap's axis is there with one device too: the mean over it is the mean."""
    step = lambda state, data, key, *, axis_name: (
        state,
        {"loss": jnp.mean(data["image"]) if axis_name is None else jax.lax.pmean(jnp.mean(data["image"]), AXIS)},
    )
    for form in (pmapped, sharded):
        parallel = form(step)
        state, key = parallel.place((jnp.zeros(3), jax.random.key(0)))
        _, metrics = parallel.run(state, parallel.feed([{"image": np.float32([1, 3])}] * 2), key)
        assert metrics["loss"].tolist() == [2, 2]
