"""IDX files written by hand from the format's description, byte by byte, and large arrays that stay in their file."""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest
from tiny import GREY, LABELS, RGB, everything

from jaxdiff import build
from jaxdiff.config import Data
from jaxdiff.data import ArraySource, array_file, idx_images, mapped
from jaxdiff.typing import InputError


def idx(array):
    """The format in one line: 0, 0, type 8, dimensions, sizes big-endian, data."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
        ("emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-train-labels-idx1-ubyte"),
    ],
)
def test_images_with_the_labels_beside_them(tmp_path, images, labels):
    write(tmp_path / images, idx(GREY[..., 0]))
    write(tmp_path / labels, idx(LABELS.astype(np.uint8)))
    source = build.source(Data(name=str(tmp_path / images)))
    assert (len(source), source.image_shape, source.num_classes) == (7, (5, 6, 1), 4)
    whole = everything(source)
    np.testing.assert_array_equal(whole["image"], GREY)
    np.testing.assert_array_equal(whole["label"], LABELS)
    assert whole["label"].dtype == np.int32


def test_without_labels_and_in_colour(tmp_path):
    write(tmp_path / "train-images-idx4-ubyte", idx(RGB))
    source = idx_images(tmp_path / "train-images-idx4-ubyte")
    assert source.num_classes is None
    np.testing.assert_array_equal(everything(source)["image"], RGB)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, no idx file", "begins with b'hell'"),
        (bytes([0, 0, 13, 1]) + struct.pack(">If", 1, 1.0), "begins with"),
        (bytes([0, 0, 8, 3]) + struct.pack(">I", 7), "ends within its header"),
        (idx(GREY[..., 0])[:-1], "promises 210 bytes of data, there are 209"),
        (idx(GREY[..., 0]) + b"0", "promises 210 bytes of data, there are 211"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_that_cannot_be_used(tmp_path, content, message, suffix):
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    write(path, content)
    with pytest.raises(InputError, match=message) as caught:
        idx_images(path)
    assert str(path) in str(caught.value)


def test_a_cut_gz_a_missing_file_and_too_few_labels(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with pytest.raises(InputError, match="no such file"):
        idx_images(path)
    path.write_bytes(gzip.compress(idx(GREY[..., 0]))[:-20])
    with pytest.raises(InputError, match="not a readable IDX file"):
        idx_images(path)
    write(path, idx(GREY[..., 0]))
    write(tmp_path / "train-labels-idx1-ubyte", idx(LABELS[1:].astype(np.uint8)))
    with pytest.raises(InputError, match=r"one label per image.*\(7,\).*\(6,\)"):
        idx_images(path)


# --- arrays that stay in their file ---------------------------------------------------------------------------------


def files(tmp_path):
    """The same images in every file that can be mapped, and their first byte's place."""
    np.save(tmp_path / "a.npy", RGB)
    np.savez(tmp_path / "b.npz", labels=LABELS, images=RGB)
    write(tmp_path / "train-images-idx4-ubyte", idx(RGB))
    return [tmp_path / name for name in ("a.npy", "b.npz", "train-images-idx4-ubyte")]


@pytest.fixture
def everything_mapped(monkeypatch):
    monkeypatch.setattr(mapped, "MAPPED_BYTES", 0)


@pytest.mark.usefixtures("everything_mapped")
@pytest.mark.parametrize("number", [0, 1, 2])
def test_large_arrays_are_memory_mapped(tmp_path, number):
    """The file, changed afterwards, changes what the source gives: it was not read into memory."""
    path = files(tmp_path)[number]
    source = build.source(Data(name=str(path)))
    np.testing.assert_array_equal(everything(source)["image"], RGB)
    content = path.read_bytes()
    place = content.index(RGB.tobytes())
    path.write_bytes(content[: place + 5] + bytes([RGB.ravel()[5] ^ 255]) + content[place + 6 :])
    assert (everything(source)["image"].ravel() != RGB.ravel()).nonzero()[0].tolist() == [5]


@pytest.mark.usefixtures("everything_mapped")
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_mapped_source_is_sent_to_a_process_as_its_place_in_the_file(tmp_path, number):
    path = files(tmp_path)[number]
    source = build.source(Data(name=str(path)))
    sent = pickle.dumps(source)
    assert RGB[:2].tobytes() not in sent
    again = pickle.loads(sent)
    for key, value in everything(source).items():
        np.testing.assert_array_equal(everything(again)[key], value)


@pytest.mark.parametrize("part", [np.s_[2:], np.s_[1:6:2], np.s_[:, ::-1], np.s_[..., :1]])
def test_parts_of_a_mapped_array_too(tmp_path, part):
    np.save(tmp_path / "a.npy", RGB)
    source = ArraySource(np.load(tmp_path / "a.npy", mmap_mode="r")[part])
    np.testing.assert_array_equal(everything(pickle.loads(pickle.dumps(source)))["image"], RGB[part])


@pytest.mark.usefixtures("everything_mapped")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_of_any_order_and_compression(tmp_path, save, order):
    save(tmp_path / "a.npz", images=np.asarray(RGB, order=order), labels=LABELS)
    source = array_file(tmp_path / "a.npz")
    np.testing.assert_array_equal(everything(source)["image"], RGB)
    np.testing.assert_array_equal(everything(source)["label"], LABELS)
    assert isinstance(source.images, np.memmap) == (save is np.savez)
    np.testing.assert_array_equal(everything(pickle.loads(pickle.dumps(source)))["image"], RGB)


@pytest.mark.usefixtures("everything_mapped")
def test_a_member_that_is_cut_short_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=RGB)
    content = (tmp_path / "a.npz").read_bytes()
    place = content.index(RGB.tobytes())
    (tmp_path / "a.npz").write_bytes(content[: place + 10])
    with pytest.raises(InputError, match="cut short"):
        array_file(tmp_path / "a.npz")


def test_small_members_are_loaded_and_their_checksum_checked(tmp_path):
    np.savez(tmp_path / "a.npz", images=RGB)
    assert not isinstance(array_file(tmp_path / "a.npz").images, np.memmap)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[bytes(content).index(RGB.tobytes()) + 3] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        array_file(tmp_path / "a.npz")


@pytest.mark.skipif(not os.environ.get("FASHION_MNIST"), reason="FASHION_MNIST names no folder of its IDX files")
def test_fashion_mnist():
    """The real files: 60,000 images, 6,000 of each class."""
    source = idx_images(os.path.join(os.environ["FASHION_MNIST"], "train-images-idx3-ubyte.gz"))
    assert (len(source), source.image_shape) == (60_000, (28, 28, 1))
    assert np.bincount(everything(source)["label"]).tolist() == [6000] * 10
