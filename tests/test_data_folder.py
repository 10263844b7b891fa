"""Folders of images: what is listed, which class it has, and that each picture becomes the pixels that theory asks for.

References: arithmetic on levels, linear images that any proper filter keeps, Pillow's files read by hand.
"""

import logging
import os
import pickle
import time

import numpy as np
import pytest
from PIL import Image
from tiny import everything

from jaxdiff import build
from jaxdiff.config import Data
from jaxdiff.data import Resized, Skipping, batches, class_names, digits, image_folder
from jaxdiff.data.fit import UnreadableError, fit
from jaxdiff.typing import InputError

rng = np.random.default_rng(0)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array


def one(path, **options):
    """The only picture of a folder."""
    return everything(image_folder(path, **options))["image"][0]


# --- which files, which classes -------------------------------------------------------------------------------------


@pytest.fixture
def cats_and_dogs(tmp_path):
    """Two classes at several depths; each image is one level, by which it is known again."""
    levels = {"dogs/b.png": 1, "cats/z/deep/a.png": 2, "cats/a.PNG": 3, "cats/z.webp": 4, "dogs/a.png": 5}
    for name, level in levels.items():
        options = {"lossless": True} if name.endswith("webp") else {}
        save(tmp_path / name, np.full((4, 6, 3), level, np.uint8), **options)
    for name in ("cats/.hidden.png", ".git/x.png", "__notes/readme.txt", "dogs/list.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    return tmp_path


def test_classes_are_the_top_directories_in_the_order_of_their_names(cats_and_dogs):
    source = image_folder(cats_and_dogs)
    assert source.class_names == ("cats", "dogs")  # neither .git nor a directory without images
    assert (len(source), source.image_shape, source.num_classes) == (5, (4, 6, 3), 2)
    assert source.names == ("cats/a.PNG", "cats/z/deep/a.png", "cats/z.webp", "dogs/a.png", "dogs/b.png")
    whole = everything(source)
    assert (whole["image"].dtype, whole["label"].dtype) == (np.uint8, np.int32)
    assert whole["image"][:, 0, 0, 0].tolist() == [3, 2, 4, 5, 1]
    assert whole["label"].tolist() == [0, 0, 0, 1, 1]
    picked = source.gather(np.array([4, 0, 4]))
    assert picked["image"][:, 0, 0, 0].tolist() == [1, 3, 1]
    assert picked["label"].tolist() == [1, 0, 1]


def test_images_without_directories_have_no_labels(tmp_path):
    save(tmp_path / "b.png", np.zeros((4, 4), np.uint8))
    save(tmp_path / "a.png", np.ones((4, 4), np.uint8))
    source = image_folder(tmp_path)
    assert source.num_classes is None
    assert class_names(source) is None
    whole = everything(source)
    assert set(whole) == {"image"}
    assert whole["image"][:, 0, 0, 0].tolist() == [1, 0]


def test_images_beside_class_directories_are_refused_unless_labels_are_off(cats_and_dogs):
    save(cats_and_dogs / "loose.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"5 images are in directories.* 1 beside them, such as loose\.png\. .*labels"):
        image_folder(cats_and_dogs)
    source = build.source(Data(name=str(cats_and_dogs), labels=False))
    assert len(source) == 6
    assert set(everything(source)) == {"image"}


def test_links_are_followed_and_loops_end(cats_and_dogs):
    os.symlink(cats_and_dogs, cats_and_dogs / "dogs" / "loop")
    os.symlink(cats_and_dogs / "dogs" / "a.png", cats_and_dogs / "cats" / "linked.png")
    assert len(image_folder(cats_and_dogs)) == 6


def test_names_that_are_no_text_work(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    Image.new("L", (3, 3), 7).save(os.fsdecode(path), format="PNG")
    assert everything(image_folder(tmp_path))["image"].max() == 7


@pytest.mark.parametrize(("make", "message"), [("nothing", "no such folder"), ("empty", "no image in it.*png.*webp")])
def test_folders_of_no_image(tmp_path, make, message):
    folder = tmp_path / "sub"
    if make == "empty":
        folder.mkdir()
        (folder / "notes.txt").touch()
    with pytest.raises(InputError, match=message) as caught:
        image_folder(folder)
    assert str(folder) in str(caught.value)


def test_a_listing_opens_no_file_but_the_first_image(tmp_path, monkeypatch):
    """20,000 files in well under two seconds; benchmarks/data.py --folder does 100,000."""
    first = tmp_path / "0"
    save(first / "00000.png", np.zeros((8, 8, 3), np.uint8))
    for d in range(10):
        folder = tmp_path / str(d)
        folder.mkdir(exist_ok=True)
        for i in range(1, 2000):
            os.link(first / "00000.png", folder / f"{i:05d}.png")
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file, *rest: opened.append(str(file)) or real(file, *rest))
    started = time.perf_counter()
    source = image_folder(tmp_path)
    assert time.perf_counter() - started < 2
    assert (len(source), opened) == (19_991, [str(first / "00000.png")])


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_of_the_size_asked_for_keep_every_pixel(tmp_path, suffix, channels):
    shape = (9, 9) if channels == 1 else (9, 9, 3)
    image = rng.integers(0, 256, shape, np.uint8)
    save(tmp_path / f"a.{suffix}", image, **({"lossless": True} if suffix == "webp" else {}))
    for size in (None, 9):
        np.testing.assert_array_equal(one(tmp_path, size=size, channels=channels), image.reshape(9, 9, channels))


@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
@pytest.mark.parametrize(("height", "width", "size"), [(97, 61, 16), (31, 200, 31), (12, 13, 40), (640, 480, 7)])
def test_a_constant_image_stays_constant(level, height, width, size):
    image = Image.fromarray(np.full((height, width, 3), level, np.uint8))
    np.testing.assert_array_equal(fit(image, size=size, channels=3), np.full((size, size, 3), level))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("side", "size"), [(120, 40), (120, 50), (200, 64), (40, 100)])
def test_a_linear_image_stays_linear_where_the_filter_sees_no_edge(axis, side, size):
    """Output pixel i is the image at its centre, (i + 1/2) side / size - 1/2."""
    ramp = np.arange(side)
    image = np.stack([ramp] * side, axis=1 - axis).astype(np.uint8)
    out = np.moveaxis(fit(Image.fromarray(image), size=size, channels=1)[..., 0].astype(float), axis, 0)
    expected = (np.arange(size) + 0.5) * side / size - 0.5
    reach = int(np.ceil(3 * max(1, size / side))) + 1
    inner = slice(reach, size - reach)
    assert np.abs(out - expected[:, None])[inner].max() <= 0.5 + 1e-2  # a rounding; Pillow's coefficients have 8 digits


def test_what_is_finer_than_the_new_pixels_becomes_grey_instead_of_another_pattern():
    """Stripes of one pixel, reduced by 2.9: nearest or bilinear sampling gives broad stripes (aliases) of full contrast."""
    stripes = np.tile(np.array([0, 255], np.uint8), (290, 145))
    out = fit(Image.fromarray(stripes), size=100, channels=1)[:, 4:-4].astype(float)
    assert np.abs(out - 127.5).max() < 3
    aliased = np.asarray(Image.fromarray(stripes).resize((100, 100), Image.Resampling.NEAREST))
    assert aliased.std() > 100


@pytest.mark.parametrize(("height", "width"), [(12, 30), (30, 12), (12, 31), (13, 12)])
def test_the_middle_square_is_kept(height, width):
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    top, left = (height - 12) // 2, (width - 12) // 2
    np.testing.assert_array_equal(
        fit(Image.fromarray(image), size=12, channels=3), image[top : top + 12, left : left + 12]
    )


def test_resizing_and_cropping_agree_with_resizing_all_and_cropping_after():
    """Twice as wide as high, reduced by 3: the crop lies on whole pixels of the whole picture's reduction."""
    image = Image.fromarray(rng.integers(0, 256, (60, 120, 3), np.uint8))
    whole = np.asarray(image.resize((40, 20), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(fit(image, size=20, channels=3), whole[:, 10:30])


def test_sixteen_bits_become_eight_by_rounding(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    save(tmp_path / "a.png", levels)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode.startswith("I")
    exact = np.rint(levels / 257.0)[..., None]
    np.testing.assert_array_equal(one(tmp_path), exact)
    np.testing.assert_array_equal(one(tmp_path, channels=3), exact.repeat(3, -1))
    (tmp_path / "a.png").unlink()
    save(tmp_path / "a.tif", levels)
    np.testing.assert_array_equal(one(tmp_path), exact)


@pytest.mark.parametrize(
    ("dtype", "value", "message"), [(np.float32, 0.5, "floating-point"), (np.int32, 70_000, "more than 16 bits")]
)
def test_pixels_of_unknown_range_are_refused(tmp_path, dtype, value, message):
    save(tmp_path / "a.tif", np.full((4, 4), value, dtype))
    with pytest.raises(UnreadableError, match=message):
        one(tmp_path, size=4, channels=1)


def test_transparency_is_put_on_white(tmp_path):
    """a c + (1 - a) 255 for all levels and opacities, rounded."""
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    image = np.stack([colour, 255 - colour, np.zeros_like(colour), alpha], -1).astype(np.uint8)
    save(tmp_path / "a.png", image)
    exact = (image[..., :3].astype(float) * alpha[..., None] + 255.0 * (255 - alpha[..., None])) / 255
    out = one(tmp_path)
    assert out.shape == (256, 256, 3)
    assert np.abs(out - exact).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(one(tmp_path, channels=4), image)


def test_grey_with_alpha_and_a_transparent_palette(tmp_path):
    grey = rng.integers(0, 256, (5, 6, 2), np.uint8)
    save(tmp_path / "grey" / "a.png", grey)
    exact = (grey[..., 0].astype(float) * grey[..., 1] + 255.0 * (255 - grey[..., 1])) / 255
    assert np.abs(one(tmp_path / "grey")[..., 0] - exact).max() <= 0.5 + 1e-9
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    (tmp_path / "palette").mkdir()
    palette.save(tmp_path / "palette" / "a.png", transparency=1)
    assert one(tmp_path / "palette").tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    assert one(tmp_path / "palette", channels=4)[0, :, 3].tolist() == [255, 0, 255]


def test_transparent_colours_do_not_bleed_when_resized():
    """What a fully transparent pixel's colour is has no meaning: black or green under it, the picture is the same."""
    image = rng.integers(0, 256, (40, 40, 4), np.uint8)
    image[:, ::2, 3] = 0
    other = image.copy()
    other[:, ::2, :3] = (0, 255, 0)
    a, b = (fit(Image.fromarray(i), size=13, channels=3) for i in (image, other))
    np.testing.assert_array_equal(a, b)


def test_colour_becomes_grey_by_luma():
    image = rng.integers(0, 256, (20, 20, 3), np.uint8)
    out = fit(Image.fromarray(image), size=None, channels=1)[..., 0]
    assert np.abs(out - image @ np.array([0.299, 0.587, 0.114])).max() < 0.51


def test_black_and_white_of_one_bit(tmp_path):
    save(tmp_path / "a.png", np.array([[True, False]]))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "1"
    assert one(tmp_path, channels=1)[0, :, 0].tolist() == [255, 0]


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    assert np.abs(one(tmp_path).astype(int) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_honoured(tmp_path, orientation, suffix):
    """What a camera stores of an upright scene, by EXIF's definition: where row 0 and column 0 of the file are in it."""
    scene = np.zeros((16, 24, 3), np.uint8)
    scene[:8, :12], scene[:8, 12:], scene[8:, :12] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stored = {  # row 0 is the scene's: 1 top, 3 bottom, 5 left, 6 right ...; column 0 likewise
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: scene.transpose(1, 0, 2)[::-1],
        7: scene.transpose(1, 0, 2)[::-1, ::-1],
        8: scene.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    save(tmp_path / f"a.{suffix}", np.ascontiguousarray(stored), exif=exif, **options)
    assert np.abs(one(tmp_path).astype(int) - scene).max() < 4


def test_damaged_exif_spoils_no_picture(tmp_path):
    image = save(tmp_path / "a.png", rng.integers(0, 256, (4, 4, 3), np.uint8), exif=b"Exif\0\0MM\0*nonsense")
    np.testing.assert_array_equal(one(tmp_path), image)


def test_large_jpegs_decoded_at_a_fraction_look_the_same(tmp_path):
    """Against the same file resized from its full size, by the same filter; the difference is far below JPEG's own."""
    y, x = np.mgrid[:1200, :1600]
    scene = 127 + 60 * np.sin(x / 70) + 60 * np.cos(y / 45)
    save(tmp_path / "a.jpg", np.stack([scene, scene[::-1], 255 - scene], -1).astype(np.uint8), quality=92)
    with Image.open(tmp_path / "a.jpg") as picture:
        full = fit(picture, size=64, channels=3)
    difference = np.abs(one(tmp_path, size=64).astype(int) - full)
    assert difference.max() <= 4
    assert difference.mean() < 0.5


# --- one shape for all ----------------------------------------------------------------------------------------------


def test_images_of_another_size_are_refused_unless_a_size_is_given(tmp_path):
    save(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "b.png", np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"b\.png: is 6x5 pixels, the first image is 6x4\. Give --data\.size"):
        everything(image_folder(tmp_path))
    assert everything(image_folder(tmp_path, size=4))["image"].shape == (2, 4, 4, 3)


def test_a_grey_folder_is_grey_and_colour_in_it_is_not_lost_in_silence(tmp_path):
    save(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    assert image_folder(tmp_path).image_shape == (4, 4, 1)
    save(tmp_path / "b.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"b\.png: has colours.*first image is grey.*--data\.channels 1 or 3"):
        everything(image_folder(tmp_path))
    assert everything(image_folder(tmp_path, channels=1))["image"].shape == (2, 4, 4, 1)
    save(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    save(tmp_path / "b.png", np.zeros((4, 4), np.uint8))
    assert everything(image_folder(tmp_path))["image"].shape == (2, 4, 4, 3)


def test_any_source_can_be_resized():
    source = Resized(digits(), size=4, channels=3)
    assert (len(source), source.image_shape, source.num_classes) == (1797, (4, 4, 3), 10)
    few = source.gather(np.array([5, 2]))
    reference = Image.fromarray(digits().images[5, ..., 0]).resize((4, 4), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(few["image"][0], np.asarray(reference)[..., None].repeat(3, -1))
    np.testing.assert_array_equal(few["label"], digits().labels[[5, 2]])
    assert build.source(Data(size=4)).image_shape == (4, 4, 1)
    assert build.source(Data(size=8)) is digits()


# --- what cannot be read --------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """Seven images, known by their levels; the numbers 0, 3, 4 and 6 cannot be read."""
    for i in range(7):
        save(tmp_path / f"{i}.png", np.full((8, 8, 3), 10 * i, np.uint8))
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "3.png").write_text("no image")
    save(tmp_path / "4.png", rng.integers(0, 256, (64, 64, 3), np.uint8))
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:2000])
    (tmp_path / "6.png").unlink()
    os.symlink("nowhere", tmp_path / "6.png")
    return tmp_path


@pytest.mark.parametrize(
    ("number", "why"), [(0, "no format"), (3, "no format"), (4, "truncated|cut|not enough"), (6, "vanished")]
)
def test_an_image_that_cannot_be_read_is_named_with_what_is_wrong_and_how_to_go_on(damaged, number, why):
    source = image_folder(damaged)
    with pytest.raises(
        UnreadableError, match=rf"{number}\.png: not a usable image \(.*({why}).*skip-corrupt"
    ) as caught:
        source.gather(np.array([1, number]))
    assert "0x" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    np.testing.assert_array_equal(source.gather(np.array([1, 5]))["image"][:, 0, 0, 0], [10, 50])


def test_skipping_takes_the_next_readable_image_a_function_of_the_number_alone(damaged, caplog):
    expected = [10, 10, 20, 50, 50, 50, 10]  # 6 goes round to 1, past 0
    with caplog.at_level(logging.WARNING, logger="jaxdiff.data"):
        source = Skipping(image_folder(damaged))
        for index in ([0, 1, 2, 3, 4, 5, 6], [6, 3], [4], [5, 0, 0]):
            out = source.gather(np.array(index))["image"]
            assert out[:, 0, 0, 0].tolist() == [expected[i] for i in index]
    assert sorted(source.skipped) == [0, 3, 4, 6]
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 4  # once each
    assert all(any(f"{i}.png" in line for line in named) for i in (0, 3, 4, 6))
    assert "4 left out so far" in named[-1]


def test_skipping_through_the_pipeline_is_the_same_for_any_number_of_threads(damaged):
    source = Data(name=str(damaged), skip_corrupt=True)
    runs = []
    for threads in (1, 4):
        iterator = batches(build.source(source), batch_size=4, seed=3, threads=threads)
        runs.append(np.stack([next(iterator)["image"] for _ in range(10)]))
    np.testing.assert_array_equal(*runs)
    strict = batches(build.source(Data(name=str(damaged))), batch_size=7, seed=0)
    with pytest.raises(InputError, match="not a usable image"):
        next(strict)


def test_a_folder_of_nothing_readable(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"none of its 1 images can be read.*a\.png"):
        image_folder(tmp_path)
    with pytest.raises(InputError, match=r"none of the 1 images can be read.*a\.png"):
        Skipping(image_folder(tmp_path, size=4, channels=3)).gather(np.array([0]))


@pytest.mark.parametrize("wrap", [lambda source: source, Skipping, lambda source: Resized(source, 3)])
def test_sources_survive_pickling(cats_and_dogs, wrap):
    source = wrap(image_folder(cats_and_dogs))
    again = pickle.loads(pickle.dumps(source))
    assert class_names(again) == class_names(source) == ("cats", "dogs")
    for key, value in everything(source).items():
        np.testing.assert_array_equal(everything(again)[key], value)
