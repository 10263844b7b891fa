"""Hugging Face's data sets: anything that looks like one, and the real library where it is installed."""

import pickle

import numpy as np
import pytest
from PIL import Image
from tiny import GREY, LABELS, RGB, everything

from jaxdiff import build
from jaxdiff.config import Data
from jaxdiff.data import Skipping, class_names, hugging_face
from jaxdiff.data.fit import UnreadableError
from jaxdiff.typing import InputError


class Table:
    """As little as a data set must have: columns by name, rows by number."""

    features = None

    def __init__(self, **columns):
        self.columns = columns
        self.column_names = list(columns)

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        return self.columns[key] if isinstance(key, str) else {k: v[key] for k, v in self.columns.items()}


PICTURES = [Image.fromarray(image) for image in RGB]
DAMAGED = [*RGB[:3], np.zeros((2, 2), np.float32), *RGB[4:]]


@pytest.mark.parametrize("images", [PICTURES, RGB, RGB.tolist()], ids=["pillow", "arrays", "lists"])
@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label"), ("x", "digit")])
def test_pictures_and_arrays_come_back_to_the_pixel(images, image, label):
    table = Table(id=list(range(7)), **{label: LABELS.tolist(), image: images})
    named = {"image": "x", "label": "digit"} if image == "x" else {}
    source = hugging_face(table, **named)
    assert (len(source), source.image_shape, source.num_classes) == (7, (5, 6, 3), 4)
    whole = everything(source)
    np.testing.assert_array_equal(whole["image"], RGB)
    np.testing.assert_array_equal(whole["label"], LABELS)
    assert whole["label"].dtype == np.int32
    np.testing.assert_array_equal(everything(pickle.loads(pickle.dumps(source)))["image"], RGB)


def test_without_labels_grey_and_resized():
    source = hugging_face(Table(image=[Image.fromarray(i[..., 0]) for i in GREY]))
    assert (source.image_shape, source.num_classes) == ((5, 6, 1), None)
    assert set(everything(source)) == {"image"}
    assert hugging_face(Table(image=PICTURES, label=LABELS), labels=False).num_classes is None
    assert everything(hugging_face(Table(image=PICTURES), size=4, channels=1))["image"].shape == (7, 4, 4, 1)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"train": 1, "test": 2}, r"several splits \(train, test\)"),
        (iter([]), "random access.*streaming=False"),
        (Table(image=[]), "no image in it"),
        (Table(text=["a", "b"]), "expected a column of images.*it has text"),
        (Table(image=RGB, label=LABELS - 1), "integers from 0 up.*'label'"),
        (Table(image=RGB, label=LABELS / 2), "integers from 0 up.*float64"),
        (Table(image=RGB.astype(np.float32)), "no image in its column 'image' can be read"),
    ],
)
def test_what_cannot_be_used_is_refused(dataset, message):
    with pytest.raises(InputError, match=message):
        hugging_face(dataset, name="mine")


def test_an_image_that_cannot_be_read_is_named_or_left_out():
    source = hugging_face(Table(image=DAMAGED), name="mine")
    with pytest.raises(UnreadableError, match="mine, image 3: not a usable image .*float32"):
        everything(source)
    np.testing.assert_array_equal(everything(Skipping(source))["image"], RGB[[0, 1, 2, 4, 4, 5, 6]])


def test_not_installed_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["jaxdiff.data.hugging_face"], "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"hf:mnist .*pip install 'jaxdiff\[hf\]'"):
        build.source(Data(name="hf:mnist"))


# --- the real library -----------------------------------------------------------------------------------------------


@pytest.fixture
def real():
    datasets = pytest.importorskip("datasets")
    names = ["ankle boot", "bag", "coat", "dress", "hat"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": PICTURES, "label": LABELS.tolist()}, features=features)


def test_a_real_dataset_and_its_class_names(real):
    source = hugging_face(real)
    assert (source.num_classes, class_names(source)[1]) == (5, "bag")
    np.testing.assert_array_equal(everything(source)["image"], RGB)
    np.testing.assert_array_equal(everything(source)["label"], LABELS)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.gather(np.array([3]))["image"][0], RGB[3])
    np.testing.assert_array_equal(everything(hugging_face(real.with_format("numpy")))["image"], RGB)


def test_a_real_dataset_from_disk_and_from_a_folder_by_name(tmp_path, real):
    real.save_to_disk(tmp_path / "one")
    real.train_test_split(2, seed=0).save_to_disk(tmp_path / "two")
    assert len(build.source(Data(name=f"hf:{tmp_path / 'one'}"))) == 7
    assert len(build.source(Data(name=f"hf:{tmp_path / 'two'}", split="test"))) == 2
    with pytest.raises(InputError, match="the split 'valid' could not be loaded"):
        build.source(Data(name=f"hf:{tmp_path / 'two'}", split="valid"))
    for i, (picture, label) in enumerate(zip(PICTURES, LABELS, strict=True)):
        folder = tmp_path / "folder" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{i}.png")
    source = build.source(Data(name=f"hf:{tmp_path / 'folder'}", split="train[:50%]", size=4))
    assert source.image_shape == (4, 4, 3)
    assert class_names(source) == ("class0", "class1", "class2", "class3")
