"""The order of the data: a permutation per epoch, a function of (seed, epoch) alone, restartable at any batch."""

import json
import time

import numpy as np
import pytest

from jaxdiff.data import ArraySource, batches
from jaxdiff.typing import InputError

N = 10
rng = np.random.default_rng(0)
SOURCE = ArraySource(rng.integers(0, 256, (N, 4, 5, 3), np.uint8), np.arange(N))  # label i is image i's name
MANY = ArraySource(rng.integers(0, 256, (2000, 2, 3, 1), np.uint8), np.arange(2000))


def order(count, *, source=SOURCE, batch_size=4, seed=0, **options):
    """The first `count` examples' numbers."""
    iterator = batches(source, batch_size=batch_size, seed=seed, **options)
    return np.concatenate([next(iterator)["label"] for _ in range(-(-count // batch_size))])[:count]


def assert_equal(one, other):
    assert set(one) == set(other)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 16])
def test_every_epoch_has_each_example_exactly_once(batch_size):
    epochs = order(5 * N, batch_size=batch_size).reshape(5, N)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(N), (5, 1)))


def test_every_epoch_has_its_own_order():
    epochs = order(5 * N).reshape(5, N)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert tuple(range(N)) not in {tuple(epoch) for epoch in epochs}


def test_the_seed_decides_the_order():
    np.testing.assert_array_equal(order(3 * N, seed=5), order(3 * N, seed=5))
    assert (order(N, seed=5) != order(N, seed=6)).any()


@pytest.mark.parametrize("options", [{"batch_size": 8}, {"batch_size": 40}, {"threads": 1}, {"threads": 0}])
def test_the_order_does_not_depend_on_batch_size_or_threads(options):
    np.testing.assert_array_equal(order(40, **options), order(40, batch_size=4, threads=4))


def test_batches_are_uint8_images_with_their_own_int32_labels():
    iterator = batches(SOURCE, batch_size=4, seed=0)
    for _ in range(5):
        batch = next(iterator)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(batch["image"], SOURCE.images[batch["label"]])


def test_images_without_labels_give_batches_without_labels():
    assert set(next(batches(ArraySource(SOURCE.images), batch_size=4, seed=0))) == {"image"}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("done", [0, 1, 2, 3, 7])
def test_a_run_continues_exactly_after_any_batch(done, flip):
    def start():
        return batches(SOURCE, batch_size=4, seed=3, flip=flip)

    iterator = start()
    for _ in range(done):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    rest = [next(iterator) for _ in range(6)]
    fresh = start()
    fresh.set_state(state)
    for batch in rest:
        assert_equal(next(fresh), batch)
    iterator.set_state(state)  # and an iterator that has gone on goes back
    for batch in rest:
        assert_equal(next(iterator), batch)


def test_the_state_is_of_what_was_taken_not_of_what_was_read_ahead():
    reads = []

    class Recording(ArraySource):
        def gather(self, index):
            reads.append(index)
            return super().gather(index)

    iterator = batches(Recording(SOURCE.images, SOURCE.labels), batch_size=4, seed=0)
    for _ in range(2):
        next(iterator)
    deadline = time.monotonic() + 20
    while len(reads) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(reads) >= 5
    fresh = batches(SOURCE, batch_size=4, seed=0)
    fresh.set_state(iterator.get_state())
    np.testing.assert_array_equal(next(fresh)["label"], order(12)[8:])


def mirrored(seed, *, epochs=1):
    """Which examples of MANY were mirrored, `[epochs, 2000]` by example number; each is whole or the mirror image."""
    iterator = batches(MANY, batch_size=100, seed=seed, flip=True)
    flags = np.zeros((epochs, 2000), bool)
    for step in range(20 * epochs):
        batch = next(iterator)
        images = MANY.images[batch["label"]]
        flags[step // 20, batch["label"]] = (batch["image"] != images).any(axis=(1, 2, 3))
        mirror = np.stack([np.fliplr(image) for image in images])
        assert ((batch["image"] == images).all((1, 2, 3)) | (batch["image"] == mirror).all((1, 2, 3))).all()
    return flags


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    assert 0.45 < mirrored(0).mean() < 0.55  # four standard deviations


def test_flips_are_a_function_of_seed_and_position():
    first, second = mirrored(0, epochs=2)
    np.testing.assert_array_equal(first, mirrored(0)[0])
    for other in (second, mirrored(1)[0]):  # another epoch, another seed: independent, so half agree
        assert 0.45 < (first == other).mean() < 0.55


def test_flip_does_not_change_the_order():
    np.testing.assert_array_equal(order(30, flip=True), order(30, flip=False))


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("batch_size", -1), ("seed", -1)])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name}: expected at least .* got {value}"):
        batches(SOURCE, **{"batch_size": 4, "seed": 0} | {name: value})
