"""Cropping is slicing, quarter turns are numpy's, resizing is Pillow's; what does not fit is refused."""

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data.images import SUFFIX, write_samples
from jaxdiff.data.postprocess import CHANNELS, PostProcess, check_postprocess, postprocess
from jaxdiff.typing import InputError

rng = np.random.default_rng(0)


def pictures(height=12, width=9, channels=3, n=2):
    return rng.integers(0, 256, (n, height, width, channels), np.uint8)


def test_no_options_change_nothing():
    images = pictures()
    assert postprocess(images, PostProcess()) is images


def test_cropping_keeps_the_middle():
    images = pictures(12, 9, 5)  # also of what no format holds
    np.testing.assert_array_equal(postprocess(images, PostProcess(crop=(6, 3))), images[:, 3:9, 3:6])
    np.testing.assert_array_equal(postprocess(images, PostProcess(crop=(5,))), images[:, 3:8, 2:7])
    np.testing.assert_array_equal(postprocess(images, PostProcess(crop=(12, 9))), images)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3, 4])
def test_quarter_turns_are_numpys(channels, quarters):
    square, other = pictures(8, 8, channels), pictures(7, 4, channels)
    turn = PostProcess(rotate=90.0 * quarters)
    np.testing.assert_array_equal(postprocess(square, turn), np.rot90(square, quarters, (1, 2)))
    grown = PostProcess(rotate=90.0 * quarters, expand=True)
    np.testing.assert_array_equal(postprocess(other, grown), np.rot90(other, quarters, (1, 2)))


def test_any_other_turn_keeps_the_size_or_grows_and_fills():
    """A plane rises across the picture by cos and sin of the angle; a diagonal square is sqrt 2 as wide."""
    side, angle = 33, np.deg2rad(30)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    plane = np.uint8(np.rint(128 + 2 * x))[None, ..., None]
    turned = postprocess(plane, PostProcess(rotate=30.0, fill=(7,)))[0, ..., 0]
    inside = x**2 + y**2 < (side / 2 - 2) ** 2
    np.testing.assert_allclose(turned[inside], (128 + 2 * (x * np.cos(angle) - y * np.sin(angle)))[inside], atol=1.5)
    assert turned[0, 0] == turned[-1, -1] == 7
    grown = postprocess(pictures(20, 20, 3), PostProcess(rotate=45.0, expand=True, fill=(1, 2, 3)))
    assert abs(grown.shape[1] - 20 * np.sqrt(2)) < 2
    assert grown.shape[1] == grown.shape[2]
    np.testing.assert_array_equal(grown[:, 0, 0], [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(postprocess(pictures(20, 20, 3), PostProcess(rotate=45.0))[:, 0, 0], 0)


@pytest.mark.parametrize(("resize", "size"), [((18,), (24, 18)), ((4,), (5, 4)), ((5, 30), (5, 30))])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_resizing_is_pillows(resize, size, channels):
    images = pictures(12, 9, channels)
    found = postprocess(images, PostProcess(resize=resize))
    for image, one in zip(images, found, strict=True):
        whole = Image.fromarray(image[..., 0] if channels == 1 else image)
        expected = np.asarray(whole.resize(size[::-1], Image.Resampling.LANCZOS)).reshape(*size, channels)
        np.testing.assert_array_equal(one, expected)


def test_the_order_is_crop_rotate_resize():
    images = pictures(16, 10, 1)
    found = postprocess(images, PostProcess(crop=(8, 4), rotate=90.0, expand=True, resize=(8,)))
    middle = np.rot90(images[:, 4:12, 3:7, 0], 1, (1, 2))
    for one, image in zip(found, middle, strict=True):
        np.testing.assert_array_equal(
            one[..., 0], np.asarray(Image.fromarray(image).resize((16, 8), Image.Resampling.LANCZOS))
        )


@pytest.mark.parametrize(
    ("kind", "suffix", "channels"),
    [(kind, suffix, channels) for kind, suffix in SUFFIX.items() for channels in CHANNELS[kind]],
)
def test_formats_hold_the_pictures(tmp_path, kind, suffix, channels):
    """Smooth ones, within a few levels at the default quality; of less quality they are smaller and further off."""
    y, x = np.mgrid[:32, :32]
    smooth = np.stack([128 + 60 * np.sin((x * (c + 1) + y) / 20) for c in range(channels)], -1)
    images = np.uint8(np.rint(smooth))[None]
    errors, sizes = [], []
    for quality in (None, 20):
        folder = tmp_path / str(quality)
        write_samples(folder, images, np.array([3]), kind=kind, quality=quality)
        (file,) = folder.iterdir()
        assert file.name == f"000000_3{suffix}"
        with Image.open(file) as opened:
            assert opened.format == kind.upper()
            found = np.asarray(opened).reshape(32, 32, -1).astype(int)
        assert found.shape[-1] == (3 if kind == "webp" and channels == 1 else channels)
        errors.append(np.abs(found - images[0]).mean())
        sizes.append(file.stat().st_size)
    if kind == "png":
        assert errors == [0, 0]
    else:
        assert errors[0] < 2.5
        assert errors[0] < errors[1]
        assert sizes[0] > sizes[1]


@pytest.mark.parametrize(
    ("options", "shape", "words"),
    [
        ({"crop": (13,)}, (12, 12, 1), "--crop 13: the pictures are 12 by 12"),
        ({"crop": (9, 13)}, (12, 12, 1), "--crop 9 13"),
        ({"crop": (0, 3)}, (12, 12, 1), "--crop 0 3"),
        ({"crop": (3, 3, 3)}, (12, 12, 1), "--crop 3 3 3: expected one side, or height and width"),
        ({"rotate": float("nan")}, (12, 12, 1), "--rotate nan"),
        ({"expand": True}, (12, 12, 1), "--expand: is of --rotate"),
        ({"fill": (3,)}, (12, 12, 1), "--fill: is of --rotate"),
        ({"rotate": 5.0, "fill": (256,)}, (12, 12, 1), "--fill 256: expected 0 to 255"),
        ({"rotate": 5.0, "fill": (2, 2)}, (12, 12, 3), "--fill 2 2: expected 0 to 255, one number, or one for each"),
        ({"rotate": 5.0}, (12, 12, 5), "--rotate: of pictures of 1 to 4 channels; these have 5"),
        ({"resize": (5,)}, (12, 12, 6), "--resize: of pictures of 1 to 4 channels"),
        ({"resize": (0,)}, (12, 12, 3), "--resize 0: expected sides of 1"),
        ({"resize": (4, 70_000)}, (12, 12, 3), "--resize 4 70000: expected sides of 1 to 65,500"),
        ({"resize": (40_000,), "crop": (2, 12)}, (12, 12, 3), "--resize 40000: expected sides"),  # the longer, 240,000
        ({"resize": (20_000,), "format": "webp"}, (12, 12, 3), "sides of 1 to 16,383"),
        ({"format": "jpeg"}, (12, 12, 4), "--format jpeg: cannot hold 4 channels; what can is png, webp"),
        ({"format": "png"}, (12, 12, 5), "none: give --out NAME.npz"),
        ({"quality": 90}, (12, 12, 3), "--quality 90: is of --format jpeg or webp"),
        ({"quality": 101, "format": "webp"}, (12, 12, 3), "--quality 101: expected 1 to 100"),
    ],
)
def test_what_does_not_fit_is_refused(options, shape, words):
    with pytest.raises(InputError) as error:
        check_postprocess(PostProcess(**options), shape)
    assert words in str(error.value)
    if not options.keys() & {"format", "quality"}:
        with pytest.raises(InputError):
            postprocess(np.zeros((1, *shape), np.uint8), PostProcess(**options))
