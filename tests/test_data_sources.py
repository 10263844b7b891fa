"""Sources give back exactly the images that were put in, and refuse everything else in words.

References: scikit-learn's own digits and numpy's files.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tiny import GREY, LABELS, RGB, everything

from jaxdiff.data import ArraySource, Unlabelled, array_file, digits
from jaxdiff.typing import InputError

# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_sklearns():
    source, reference = digits(), load_digits()
    whole = everything(source)
    assert (len(source), source.image_shape, source.num_classes) == (1797, (8, 8, 1), 10)
    assert (whole["image"].dtype, whole["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(np.rint(whole["image"][..., 0] * (16 / 255)), reference.images)
    np.testing.assert_array_equal(whole["label"], reference.target)


# --- arrays and files -----------------------------------------------------------------------------------------------


def test_gather_takes_the_examples_in_the_order_asked_for():
    source = ArraySource(RGB, LABELS)
    index = np.array([6, 0, 0, 3])
    batch = source.gather(index)
    np.testing.assert_array_equal(batch["image"], RGB[[6, 0, 0, 3]])
    np.testing.assert_array_equal(batch["label"], LABELS[[6, 0, 0, 3]])
    assert batch["label"].dtype == np.int32


def test_a_gathered_batch_is_a_copy():
    images = RGB.copy()
    batch = ArraySource(images).gather(np.arange(2))
    batch["image"][:] = 0
    np.testing.assert_array_equal(images, RGB)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_labels_of_any_integer_type_become_int32(dtype):
    source = ArraySource(GREY, LABELS.astype(dtype))
    assert source.num_classes == 4
    assert everything(source)["label"].dtype == np.int32


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("x", "y")])
@pytest.mark.parametrize("array", [GREY, RGB, GREY[..., 0]], ids=["grey", "rgb", "nhw"])
def test_npz_round_trip(tmp_path, save, images, labels, array):
    save(tmp_path / "set.npz", **{images: array, labels: LABELS})
    source = array_file(tmp_path / "set.npz")
    whole = everything(source)
    np.testing.assert_array_equal(whole["image"], array.reshape(7, 5, 6, -1))
    np.testing.assert_array_equal(whole["label"], LABELS)
    assert (len(source), source.image_shape, source.num_classes) == (7, whole["image"].shape[1:], 4)


@pytest.mark.parametrize("array", [GREY, RGB, GREY[..., 0]], ids=["grey", "rgb", "nhw"])
def test_npy_round_trip_without_labels(tmp_path, array):
    np.save(tmp_path / "set.npy", array)
    source = array_file(str(tmp_path / "set.npy"))
    assert source.num_classes is None
    assert set(everything(source)) == {"image"}
    np.testing.assert_array_equal(everything(source)["image"], array.reshape(7, 5, 6, -1))


def test_npy_is_memory_mapped(tmp_path):
    """The file, changed afterwards, changes what the source gives: it was not read into memory."""
    path = tmp_path / "set.npy"
    np.save(path, RGB)
    source = array_file(path)
    changed = np.load(path, mmap_mode="r+")
    changed[3] = 255 - RGB[3]
    changed.flush()
    np.testing.assert_array_equal(source.gather(np.array([3]))["image"][0], 255 - RGB[3])


@pytest.mark.parametrize("name", ["set.npy", "set.npz"])
def test_the_content_of_a_file_counts_not_its_ending(tmp_path, name):
    write = np.savez if name == "set.npy" else np.save
    with open(tmp_path / name, "wb") as file:
        write(file, **{"images": RGB} if write is np.savez else {"arr": RGB})
    np.testing.assert_array_equal(everything(array_file(tmp_path / name))["image"], RGB)


def saved(**arrays):
    return lambda path: np.savez(path, **arrays)


def cut(write, keep):
    def write_and_cut(path):
        write(path)
        path.write_bytes(path.read_bytes()[:keep])

    return write_and_cut


def corrupt(path):
    """One flipped byte in the middle of the compressed images."""
    np.savez_compressed(path, images=RGB)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)


def zipped_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", "hello")


OBJECTS = np.array([np.zeros((8, 8)), np.zeros((9, 9))], object)
SHAPES = r"\[N, H, W, C\]"
REFUSED = {
    # name: (file, how it is made, what was expected)
    "float images": ("a.npz", saved(images=RGB / 255), "expected uint8 images .* float64"),
    "float images npy": ("a.npy", lambda path: np.save(path, RGB / 255), "expected uint8 images .* float64"),
    "no image": ("a.npz", saved(images=RGB[:0]), "there is no image"),
    "no pixel": ("a.npz", saved(images=RGB[:, :0]), r"there is no image .*\(7, 0, 6, 3\)"),
    "rank 2": ("a.npz", saved(images=RGB[0, 0]), rf"expected images .*{SHAPES}.*\(6, 3\)"),
    "rank 5": ("a.npz", saved(images=RGB[None]), rf"expected images .*{SHAPES}.*\(1, 7, 5, 6, 3\)"),
    "rank 0": ("a.npy", lambda path: np.save(path, np.uint8(1)), rf"expected images .*{SHAPES}.*\(\)"),
    "channels first": ("a.npz", saved(images=RGB.transpose(0, 3, 1, 2)), rf"expected images .*{SHAPES}"),
    "labels too short": ("a.npz", saved(images=RGB, labels=LABELS[1:]), r"one label per image.*\(7,\).*\(6,\)"),
    "one label": ("a.npz", saved(images=RGB, labels=LABELS[0]), r"one label per image.*\(7,\).*\(\)"),
    "one-hot labels": ("a.npz", saved(images=RGB, labels=np.eye(7, dtype=int)), "one label per image"),
    "negative labels": ("a.npz", saved(images=RGB, labels=LABELS - 1), "integers from 0 .*got .* -1"),
    "enormous labels": ("a.npz", saved(images=RGB, labels=LABELS + 2**40), f"integers from 0 .*got .* {2**40 + 3}"),
    "float labels": ("a.npz", saved(images=RGB, labels=LABELS / 2), "integers from 0 .*float64"),
    "text labels": ("a.npz", saved(images=RGB, labels=LABELS.astype(str)), "integers from 0 .*<U"),
    "missing": ("a.npz", lambda path: None, rf"no such file.*\.npz or \.npy .*{SHAPES}"),
    "a folder": ("a.npz", Path.mkdir, rf"no such file.*\.npz or \.npy .*{SHAPES}"),
    "0 bytes npz": ("a.npz", Path.touch, rf"empty.*{SHAPES}"),
    "0 bytes npy": ("a.npy", Path.touch, rf"empty.*{SHAPES}"),
    "cut npz": ("a.npz", cut(saved(images=RGB), 400), rf"cut short.*{SHAPES}"),
    "cut npy": ("a.npy", cut(lambda path: np.save(path, RGB), 400), rf"cut short.*{SHAPES}"),
    "cut npy header": ("a.npy", cut(lambda path: np.save(path, RGB), 40), rf"cut short.*{SHAPES}"),
    "cut npy magic": ("a.npy", cut(lambda path: np.save(path, RGB), 4), rf"cut short.*{SHAPES}"),
    "corrupt npz": ("a.npz", corrupt, rf"damaged.*{SHAPES}"),
    "text npz": ("a.npz", lambda path: path.write_text("hello\n" * 20), rf"another format.*{SHAPES}"),
    "text npy": ("a.npy", lambda path: path.write_text("hello\n" * 20), rf"another format.*{SHAPES}"),
    "npz without images": ("a.npz", saved(foo=RGB, bar=RGB), r"expected an array named 'images' .*found foo, bar"),
    "npz without arrays": ("a.npz", saved(), r"expected an array named 'images' .*found no array"),
    "npz with a text": ("a.npz", zipped_text, rf"not an array.*{SHAPES}"),
    "npz of objects": ("a.npz", saved(images=OBJECTS), rf"Python objects.*{SHAPES}"),
    "npy of objects": ("a.npy", lambda path: np.save(path, OBJECTS), rf"Python objects.*{SHAPES}"),
    "labels of objects": ("a.npz", saved(images=RGB, labels=OBJECTS), rf"Python objects.*{SHAPES}"),
}


@pytest.mark.parametrize(("name", "write", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_refused_with_its_name_and_what_was_expected(tmp_path, name, write, message):
    path = tmp_path / name
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        array_file(path)
    assert str(path) in str(caught.value)
    assert "unsafely" not in str(caught.value)  # numpy's advice, to trust the file, is not passed on


def test_without_labels_a_source_has_its_images_alone():
    source = Unlabelled(ArraySource(GREY, LABELS))
    assert (len(source), source.image_shape, source.num_classes) == (7, (5, 6, 1), None)
    batch = source.gather(np.array([4, 1]))
    assert set(batch) == {"image"}
    np.testing.assert_array_equal(batch["image"], GREY[[4, 1]])
