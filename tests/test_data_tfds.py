"""TensorFlow Datasets without TensorFlow, with data sets that this module defines and with mocked ones of the catalogue."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tiny import GREY, LABELS, RGB, everything

from jaxdiff.data import ArraySource, array_file, batches, tfds_images
from jaxdiff.data import tfds as room
from jaxdiff.typing import InputError

rng = np.random.default_rng(0)


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set as somebody would write one: numpy images, nine classes of which the images show four."""

    VERSION = tfds.core.Version("1.0.0")
    IMAGES = GREY
    FORMAT: str | None = None

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=self.IMAGES.shape[1:], encoding_format=self.FORMAT),
                    "label": tfds.features.ClassLabel(num_classes=9),
                    "id": np.int64,
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(5)), "test": self._generate_examples(range(5, 7))}

    def _generate_examples(self, index):
        for i in index:
            yield i, {"image": self.IMAGES[i], "label": LABELS[i], "id": i}


class TinyGrey(Tiny):
    pass


class TinyRgb(Tiny):
    IMAGES = RGB


class TinyJpeg(Tiny):
    IMAGES = np.stack([np.add.outer(np.arange(16), np.arange(8 * i, 8 * i + 24)) for i in range(7)])
    IMAGES = (IMAGES[..., None] * np.array([1, 2, 3])).astype(np.uint8)
    FORMAT = "jpeg"


class TinyUnlabelled(Tiny):
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"image": self.feature()}))

    def feature(self):
        return tfds.features.Image(shape=(5, 6, 1))

    def _generate_examples(self, index):
        for i in index:
            yield i, {"image": self.IMAGES[i]}


class TinyText(TinyUnlabelled):
    def feature(self):
        return tfds.features.Text()


class TinyVaried(TinyUnlabelled):
    def feature(self):
        return tfds.features.Image(shape=(None, None, 1))


class TinyDeep(TinyUnlabelled):
    def feature(self):
        return tfds.features.Image(shape=(5, 6, 1), dtype=np.uint16)


def assert_holds(source, images, labels):
    """The source holds exactly these examples; TFDS shuffles them when it prepares a set."""
    whole = everything(source)
    assert (whole["image"].dtype, whole["label"].dtype) == (np.uint8, np.int32)
    found = sorted((image.tobytes(), int(label)) for image, label in zip(whole["image"], whole["label"], strict=True))
    assert found == sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize(("name", "images"), [("tiny_grey", GREY), ("tiny_rgb", RGB)])
def test_tfds_prepares_numpy_images_and_reads_them_back_to_the_pixel(tmp_path, name, images):
    for attempt in ("prepared now", "read from the folder"):
        train = tfds_images(name, data_dir=str(tmp_path))
        assert (len(train), train.image_shape, train.num_classes) == (5, images.shape[1:], 9), attempt
        assert_holds(train, images[:5], LABELS[:5])
    assert_holds(tfds_images(name, split="test", data_dir=str(tmp_path)), images[5:], LABELS[5:])
    assert len(tfds_images(name, split="train[:40%]", data_dir=str(tmp_path))) == 2
    assert list(tmp_path.glob(f"{name}/1.0.0/*.array_record-*"))


def test_tfds_encodes_jpeg_at_the_quality_of_tensorflow(tmp_path):
    """tf.io.encode_jpeg's default is 95, Pillow's 75: a set must not be blurrier for want of TensorFlow."""
    images = []
    for i, image in enumerate(TinyJpeg.IMAGES):
        Image.fromarray(image).save(tmp_path / f"{i}.jpg", quality=95)
        images.append(np.asarray(Image.open(tmp_path / f"{i}.jpg")))
    assert_holds(tfds_images("tiny_jpeg", data_dir=str(tmp_path)), images[:5], LABELS[:5])


def test_tfds_without_labels(tmp_path):
    source = tfds_images("tiny_unlabelled", data_dir=str(tmp_path))
    assert source.num_classes is None
    assert set(everything(source)) == {"image"}


def test_tfds_sets_too_large_for_memory_give_the_same_batches(tmp_path, monkeypatch):
    in_memory = tfds_images("tiny_rgb", data_dir=str(tmp_path))
    monkeypatch.setattr(room, "IN_MEMORY_BYTES", 0)
    on_disk = tfds_images("tiny_rgb", data_dir=str(tmp_path))
    assert isinstance(in_memory, ArraySource)
    assert not isinstance(on_disk, ArraySource)
    assert (len(on_disk), on_disk.image_shape, on_disk.num_classes) == (5, (5, 6, 3), 9)
    one, other = (batches(source, batch_size=3, seed=0, flip=True) for source in (in_memory, on_disk))
    for _ in range(4):
        a, b = next(one), next(other)
        assert set(a) == set(b) == {"image", "label"}
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])


class Examples(list):
    """What TFDS's data sources are: examples by number, one or many. (The ones of its mock_data cannot give many.)"""

    def __getitems__(self, index):
        return [self[i] for i in index]


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("mnist", (28, 28, 1), 10), ("cifar10", (32, 32, 3), 10), ("cifar100", (32, 32, 3), 100)],
)
@pytest.mark.parametrize("in_memory", [2**31, 0])
def test_tfds_sets_of_the_catalogue(monkeypatch, name, shape, classes, in_memory):
    """With TFDS's own stand-in for download and files: the real features, known images, labels 0 and 1 alone."""
    monkeypatch.setattr(room, "IN_MEMORY_BYTES", in_memory)
    images, labels = rng.integers(0, 256, (13, *shape), np.uint8), np.arange(13) % 2
    examples = Examples({"image": image, "label": label} for image, label in zip(images, labels, strict=True))
    with tfds.testing.mock_data(as_data_source_fn=lambda builder, split: examples):
        source = tfds_images(name)
    assert (len(source), source.image_shape, source.num_classes) == (13, shape, classes)
    np.testing.assert_array_equal(everything(source)["image"], images)
    np.testing.assert_array_equal(everything(source)["label"], labels)


def test_a_prepared_folder_is_read_in_another_process_without_the_builder_and_without_tensorflow(tmp_path):
    """What a user does who brings the folder. A module named tensorflow is there to be found, and must not be."""
    tfds_images("tiny_rgb", data_dir=str(tmp_path / "sets"))
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "tensorflow.py").touch()
    program = (
        "import sys, numpy as np\n"
        "from jaxdiff.data import batches, tfds_images\n"
        f"source = tfds_images('tiny_rgb', data_dir={str(tmp_path / 'sets')!r})\n"
        "whole = source.gather(np.arange(len(source)))\n"
        f"np.savez({str(tmp_path / 'out.npz')!r}, images=whole['image'], labels=whole['label'])\n"
        "next(batches(source, batch_size=2, seed=0))\n"
        "print('tensorflow' in sys.modules)\n"
    )
    path = os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "False"
    assert_holds(array_file(tmp_path / "out.npz"), RGB[:5], LABELS[:5])


@pytest.mark.parametrize(
    "name", ["nonsense", "", "a b!", "mnist:9.9.9", "mnist/nonsense", "cifar10/a=3", "nobody:mnist", "huggingface:a/b"]
)
def test_tfds_unknown_data_set(tmp_path, name):
    with pytest.raises(
        InputError, match=rf"unknown data set tfds:{name}\. .*catalogue.* a \.npz file.*\(\w+"
    ) as caught:
        tfds_images(name, data_dir=str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 600  # not TFDS's whole catalogue


@pytest.mark.parametrize("split", ["valid", "", "train[:2", "train[:0]", "train[4:1]", "train[90:99]"])
def test_tfds_unknown_or_empty_split(tmp_path, split):
    tfds_images("tiny_grey", data_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"tfds:tiny_grey: .*split.*test \(2 images\), train \(5 images\)") as caught:
        tfds_images("tiny_grey", split=split, data_dir=str(tmp_path))
    assert repr(split) in str(caught.value)
    assert "network" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [("tiny_text", "Text"), ("tiny_varied", r"\(None, None, 1\)"), ("tiny_deep", "uint16"), ("imdb_reviews", "text")],
)
def test_tfds_sets_of_no_image_of_one_size_are_refused_before_a_download(tmp_path, name, found):
    with pytest.raises(InputError, match=rf"tfds:{name}: expected .*'image'.*uint8.*\[H, W, C\].*{found}.* \.npz file"):
        tfds_images(name, data_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_tfds_set_prepared_for_tensorflow_is_refused_with_the_way_out(tmp_path):
    """Most prepared folders are TFRecord, which only TensorFlow reads."""
    tfds_images("tiny_grey", data_dir=str(tmp_path))
    [path] = tmp_path.rglob("dataset_info.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fileFormat": "tfrecord"}))
    for file in path.parent.glob("*.array_record-*"):
        file.rename(str(file).replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match=r"prepared as tfrecord.*another --data\.dir") as caught:
        tfds_images("tiny_grey", data_dir=str(tmp_path))
    assert str(path.parent) in str(caught.value)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[300] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut"), flip_a_byte])
def test_tfds_set_that_is_incomplete_or_damaged(tmp_path, damage):
    tfds_images("tiny_grey", data_dir=str(tmp_path))
    [path] = tmp_path.rglob("*train.array_record-*")
    damage(path)
    with pytest.raises(InputError, match=r"tfds:tiny_grey: .*incomplete or damaged .*Delete that folder") as caught:
        tfds_images("tiny_grey", data_dir=str(tmp_path))
    assert str(path.parent) in str(caught.value)


def test_tfds_without_a_network_says_at_once_what_was_tried_and_how_to_bring_the_data(tmp_path, monkeypatch):
    """TFDS alone would retry for 200 seconds."""

    def unreachable(host, *args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    start = time.monotonic()
    with pytest.raises(InputError, match="tfds:mnist: ") as caught:
        tfds_images("mnist", split="test", data_dir=str(tmp_path))
    assert time.monotonic() - start < 20
    message = str(caught.value)
    assert str(tmp_path / "mnist") in message
    assert "Name or service not known" in message
    assert "tfds_images('mnist', data_dir='tfds')" in message
    assert "--data.dir tfds" in message


def test_tfds_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tfds:mnist .*pip install 'jaxdiff\[tfds\]'"):
        tfds_images("mnist")
