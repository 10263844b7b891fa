"""Images at the border: exact levels, tiles where they belong, files that are whole or not there."""

import errno
import io
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.data.images import check_out, grid, labels_in_names, write_png, write_samples
from jaxdiff.pixels import from_uint8, to_uint8
from jaxdiff.typing import InputError

rng = np.random.default_rng(0)


def pictures(n, height=4, width=4, channels=3):
    return rng.integers(0, 256, (n, height, width, channels), np.uint8)


# --- levels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_256_levels_survive_the_way_in_and_out(dtype):
    levels = np.arange(256)
    np.testing.assert_array_equal(to_uint8((levels / 127.5 - 1).astype(dtype)), levels)


@pytest.mark.parametrize("way", [from_uint8, jax.jit(from_uint8)], ids=["numpy", "traced"])
def test_the_256_levels_are_those_of_training(way):
    """Within roundings of float32: XLA multiplies by 1 / 127.5."""
    levels = np.arange(256, dtype=np.uint8)
    floats = np.asarray(way(levels))
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, levels.astype(np.float64) / 127.5 - 1, rtol=0, atol=2**-22)
    np.testing.assert_array_equal(to_uint8(floats), levels)


def test_values_between_levels_go_to_the_nearest():
    levels = np.arange(255) + rng.uniform(0.01, 0.99, (50, 255))
    out = to_uint8(levels / 127.5 - 1)
    assert out.dtype == np.uint8
    distance = np.abs(levels - out)
    assert distance.max() < 0.5 + 1e-4


def test_values_outside_are_clipped():
    np.testing.assert_array_equal(
        to_uint8(np.array([-np.inf, -1.5, -1.001, 1.001, 9, np.inf])), [0, 0, 0, 255, 255, 255]
    )


# --- grid -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "columns", "rows_and_columns"),
    [
        *[(1, None, (1, 1)), (4, None, (2, 2)), (5, None, (2, 3)), (7, None, (3, 3))],
        *[(5, 2, (3, 2)), (6, 6, (1, 6)), (3, 1, (3, 1))],
    ],
)
@pytest.mark.parametrize(("height", "width", "scale"), [(8, 8, 1), (4, 4, 2), (4, 10, 2), (5, 3, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_tile_is_at_its_place_enlarged_with_one_pixel_between(
    n, columns, rows_and_columns, height, width, scale, channels
):
    """Build the same picture the other way: block by block with Kronecker products and borders."""
    images = pictures(n, height, width, channels)
    picture = grid(images, columns=columns, min_tile=8)
    rows, across = rows_and_columns
    high, wide = scale * height, scale * width
    assert picture.shape == (rows * (high + 1) + 1, across * (wide + 1) + 1, channels)
    gap = np.ones(picture.shape[:2], bool)
    for i in range(rows * across):
        row, column = divmod(i, across)
        place = np.s_[
            row * (high + 1) + 1 : (row + 1) * (high + 1), column * (wide + 1) + 1 : (column + 1) * (wide + 1)
        ]
        if i < n:
            np.testing.assert_array_equal(picture[place], np.kron(images[i], np.ones((scale, scale, 1), np.uint8)))
            gap[place] = False
    assert set(np.unique(picture[gap])) == {128}


# --- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_round_trip_through_pillow(tmp_path, channels):
    [image] = pictures(1, 5, 6, channels)
    write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.format == "PNG"
        np.testing.assert_array_equal(np.asarray(opened).reshape(5, 6, channels), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_as_one_png_are_the_grid(tmp_path, channels):
    images = pictures(5, 32, 32, channels)
    write_samples(tmp_path / "a.png", images, None, columns=5)
    with Image.open(tmp_path / "a.png") as opened:
        whole = np.asarray(opened).reshape(34, 166, channels)
    tiles = np.split(whole[1:33, 1:], 5, axis=1)
    np.testing.assert_array_equal(np.stack([tile[:, :-1] for tile in tiles]), images)


@pytest.mark.parametrize(("labels", "expected"), [(np.array([3, 0, 2]), [3, 0, 2]), (None, [-1, -1, -1])])
def test_samples_as_npz(tmp_path, labels, expected):
    images = pictures(3)
    write_samples(tmp_path / "a.npz", images, labels)
    with np.load(tmp_path / "a.npz") as archive:
        assert set(archive.files) == {"images", "labels"}
        assert (archive["images"].dtype, archive["labels"].dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(archive["images"], images)
        np.testing.assert_array_equal(archive["labels"], expected)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([3, 0, 12], np.int32), ["000000_3.png", "000001_0.png", "000002_12.png"]),
        (None, ["000000.png", "000001.png", "000002.png"]),
    ],
)
def test_samples_as_a_folder_of_png(tmp_path, labels, names):
    images = pictures(3)
    write_samples(tmp_path / "new" / "samples", images, labels)
    assert sorted(p.name for p in (tmp_path / "new" / "samples").iterdir()) == names
    for name, image in zip(names, images, strict=True):
        with Image.open(tmp_path / "new" / "samples" / name) as opened:
            np.testing.assert_array_equal(np.asarray(opened), image)
    np.testing.assert_equal(labels_in_names(names), labels)


@pytest.fixture
def folder(tmp_path):
    """A folder with a file, a picture, and a folder with a misleading name."""
    (tmp_path / "file").touch()
    (tmp_path / "old.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "old").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "name", ["new.png", "new.npz", "new", "old.png", "old", "a/b/new.png", "a/b/new", "v1.2/new.png"]
)
def test_places_that_samples_can_go_to(folder, name):
    check_out(folder / name)
    write_samples(folder / name, pictures(2), None)
    assert (folder / name).exists()


def test_a_relative_name_is_looked_for_in_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    check_out(Path("new.png"))
    with pytest.raises(InputError, match="file of that name"):
        check_out(Path("file"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("new.jpg", r"expected a name that ends in \.png .*\.npz, or a folder"),
        ("folder.png", "there is a folder of that name"),
        ("file", "there is a file of that name"),
        ("file/new.png", "file is not a folder"),
        ("file/new", "file is not a folder"),
        ("file/a/b/new.png", "file is not a folder"),
    ],
)
def test_places_that_samples_cannot_go_to(folder, name, message):
    with pytest.raises(InputError, match=message) as caught:
        check_out(folder / name)
    assert f"--out {folder / name}: " in str(caught.value)


def test_a_folder_that_takes_no_files_is_refused(folder, monkeypatch):
    """A full disk, on which an empty file can be made."""

    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: Full())
    with pytest.raises(InputError, match=f"no file can be made in {folder} .No space left on device"):
        check_out(folder / "new.png")


@pytest.mark.parametrize("name", ["new.png", "old.png", "new", "a/b/new.npz", "."])
def test_a_folder_without_permission_is_refused(folder, monkeypatch, name):
    """It is the folder that counts, for a file that is replaced as for a new one. (Tests may run as root.)"""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    with pytest.raises(InputError, match=f"no permission to write in {folder}"):
        check_out(folder / name)
