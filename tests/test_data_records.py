"""Prepared shards: what goes in comes out, whatever happens on the way; the same files whoever wrote them.

References: the source itself, array_record's own reader, and a run that nobody disturbed.
"""

import fcntl
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image
from tiny import GREY, LABELS, RGB, everything

from jaxdiff import build
from jaxdiff.config import Data
from jaxdiff.data import ArraySource, Unlabelled, batches, class_names, digits, image_folder, prepare, record_folder
from jaxdiff.data.records import is_record_folder
from jaxdiff.typing import InputError

rng = np.random.default_rng(0)


def content(folder):
    """Every file of a folder, to the byte."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same(source, other):
    assert (len(source), source.image_shape, source.num_classes) == (len(other), other.image_shape, other.num_classes)
    a, b = everything(source), everything(other)
    assert set(a) == set(b)
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("shard_images", [1, 3, 7, None])
@pytest.mark.parametrize(
    "source",
    [ArraySource(RGB, LABELS), ArraySource(GREY), Unlabelled(ArraySource(RGB, LABELS))],
    ids=["rgb", "grey", "un"],
)
def test_what_goes_in_comes_out(tmp_path, source, shard_images):
    index = prepare(source, tmp_path / "out", name="mine", shard_images=shard_images)
    assert (index["count"], len(index["shards"])) == (7, -(-7 // (shard_images or 7)))
    records = build.source(Data(name=str(tmp_path / "out")))
    assert_same(records, source)
    picked = np.array([6, 0, 0, -1, 3])
    np.testing.assert_array_equal(records.gather(picked)["image"], source.gather(picked)["image"])
    assert not (tmp_path / "out" / ".prepare").exists()


def test_a_record_is_the_label_and_the_pixels(tmp_path):
    """By array_record's own reader: anybody can read these files."""
    prepare(ArraySource(RGB, LABELS), tmp_path, name="mine")
    [path] = tmp_path.glob("*.array_record")
    reader = array_record_module.ArrayRecordReader(str(path))
    for record, image, label in zip(reader.read_all(), RGB, LABELS, strict=True):
        assert int.from_bytes(record[:4], "little", signed=True) == label
        assert record[4:] == image.tobytes()


def test_the_batches_of_training_are_those_of_the_source(tmp_path):
    prepare(digits(), tmp_path, name="digits", shard_images=400)
    one, other = (batches(s, batch_size=300, seed=1, flip=True) for s in (digits(), record_folder(tmp_path)))
    for _ in range(8):
        a, b = next(one), next(other)
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


def test_many_threads_and_another_process_read_the_same(tmp_path):
    prepare(digits(), tmp_path, name="digits", shard_images=100)
    source = record_folder(tmp_path)
    indices = [rng.integers(0, 1797, 50) for _ in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.gather, indices))
    again = pickle.loads(pickle.dumps(source))  # while its files are open
    for index, examples in zip(indices, found, strict=True):
        np.testing.assert_array_equal(examples["image"], digits().images[index])
        np.testing.assert_array_equal(again.gather(index)["label"], digits().labels[index])


# --- a folder with images that cannot be read -----------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """40 pictures of two classes, two of which are damaged."""
    for i in range(40):
        folder = tmp_path / "pictures" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(folder / f"{i:02d}.png")
    for name in ("cat/07.png", "dog/20.png"):
        (tmp_path / "pictures" / name).write_bytes(b"damaged")
    return tmp_path / "pictures"


def test_damaged_images_are_all_named_and_nothing_is_lost_by_it(tmp_path, pictures):
    """Refused at first; the shards without them stay, and with skip_corrupt only the others are written."""
    source, out = image_folder(pictures, size=8), tmp_path / "out"
    with pytest.raises(InputError, match=r"2 of 40 images cannot be read:\n.*cat/07\.png.*\n.*dog/20\.png.*\n.*--skip"):
        prepare(source, out, name="pictures", shard_images=10)
    with pytest.raises(InputError, match="not finished; run the same command again"):
        build.source(Data(name=str(out)))
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("*.array_record")}
    assert len(kept) == 2
    index = prepare(source, out, name="pictures", shard_images=10, skip_corrupt=True)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert (index["count"], index["skipped"]) == (38, 2)
    assert [len(shard["skipped"]) for shard in index["shards"]] == [1, 0, 0, 1]
    records = record_folder(out)
    assert class_names(records) == ("cat", "dog")
    good = np.array([i for i, name in enumerate(source.names) if name not in ("cat/07.png", "dog/20.png")])
    expected = source.gather(good)
    np.testing.assert_array_equal(everything(records)["image"], expected["image"])
    np.testing.assert_array_equal(everything(records)["label"], expected["label"])
    with pytest.raises(InputError, match="2 of 40 images cannot be read"):  # once more without: not hidden
        prepare(source, out, name="pictures", shard_images=10)


def test_mended_images_are_taken(tmp_path, pictures):
    source, out = image_folder(pictures, size=8), tmp_path / "out"
    with pytest.raises(InputError):
        prepare(source, out, name="pictures", shard_images=10)
    for name in ("cat/07.png", "dog/20.png"):
        Image.fromarray(RGB[0]).save(pictures / name)
    assert prepare(source, out, name="pictures", shard_images=10)["count"] == 40
    assert_same(record_folder(out), source)


def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path, pictures):
    source = image_folder(pictures, size=8)
    for workers in (1, 3):
        prepare(source, tmp_path / str(workers), name="p", shard_images=7, workers=workers, skip_corrupt=True)
    assert content(tmp_path / "1") == content(tmp_path / "3")


# --- resuming -------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from jaxdiff.data import ArraySource, prepare

class Slow(ArraySource):
    def gather(self, index):
        time.sleep(0.001 * len(index))
        return super().gather(index)

if __name__ == "__main__":
    images = np.random.default_rng(0).integers(0, 256, (2000, 8, 8, 3), np.uint8)
    prepare(Slow(images, np.arange(2000) % 10), Path(sys.argv[1]), name="slow", shard_images=100, workers=int(sys.argv[2]))
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_run_again_it_leaves_the_same_files(tmp_path, workers):
    """Killed while it writes: after at least 3 and 11 of the 20 shards, and then some milliseconds."""
    (tmp_path / "program.py").write_text(PROGRAM)
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def start(out):
        command = [sys.executable, str(tmp_path / "program.py"), str(out), str(workers)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with start(whole) as process:
        assert process.wait(120) == 0
    random.seed(workers)
    for shards in (3, 11):
        with start(killed) as process:
            while len(list(killed.glob("*.array_record"))) < shards:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.1))
            process.kill()
            assert process.wait(60) == -signal.SIGKILL
        finished = list(killed.glob("*.array_record"))
        assert shards <= len(finished) < 20
        for shard in finished:  # whole or not there
            assert shard.read_bytes() == (whole / shard.name).read_bytes()
    with start(killed) as process:
        assert process.wait(120) == 0
    assert content(killed) == content(whole)


def test_settings_and_images_that_differ_are_refused_with_both(tmp_path):
    out = tmp_path / "out"
    prepare(digits(), out, name="digits", shard_images=1000)
    before = content(out)
    with pytest.raises(InputError, match="shard_images: 1000 there, 500 now"):
        prepare(digits(), out, name="digits", shard_images=500)
    other = ArraySource(digits().images ^ 1, digits().labels)
    with pytest.raises(InputError, match="identity: "):
        prepare(other, out, name="digits", shard_images=1000)
    assert content(out) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"not empty, it has thesis\.tex"):
        prepare(digits(), tmp_path / "full", name="digits")
    assert list(content(tmp_path / "full")) == ["thesis.tex"]


def test_two_at_once_are_refused(tmp_path):
    (tmp_path / ".prepare").mkdir()
    with open(tmp_path / ".prepare" / "lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another jaxdiff data prepare is writing there"):
            prepare(digits(), tmp_path, name="digits")
    assert prepare(digits(), tmp_path, name="digits")["count"] == 1797


def test_a_full_disk_is_said_and_what_is_finished_is_kept(tmp_path):
    """A limit on the size of files stands for the disk: the shard does not fit."""
    program = (
        "import resource, signal\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from jaxdiff.data import ArraySource, prepare\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "source = ArraySource(np.zeros((1000, 16, 16, 3), np.uint8))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
        f"prepare(source, Path({str(tmp_path / 'out')!r}), name='big')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "InputError" in done.stderr
    assert "cannot be written" in done.stderr
    assert "same command again" in done.stderr
    assert not list((tmp_path / "out").glob("*.array_record"))
    assert not list((tmp_path / "out" / ".prepare").glob("*.part"))


# --- damage ---------------------------------------------------------------------------------------------------------


def shard(folder, number=1):
    return sorted(folder.glob("*.array_record"))[number]


def flip_a_byte(path):
    """In a record, not in what array_record pads its files with."""
    data = bytearray(path.read_bytes())
    place = bytes(data).index(digits().images[1000].tobytes())
    data[place + 20] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [os.unlink, lambda p: p.write_bytes(p.read_bytes()[:5000]), flip_a_byte])
def test_a_damaged_shard_is_named_and_the_same_command_mends_it(tmp_path, damage):
    prepare(digits(), tmp_path, name="digits", shard_images=1000)
    whole = content(tmp_path)
    damage(shard(tmp_path))
    with pytest.raises(InputError, match=rf"{shard_name()}: damaged or gone .*jaxdiff data prepare"):
        everything(record_folder(tmp_path))
    prepare(digits(), tmp_path, name="digits", shard_images=1000)
    assert content(tmp_path) == whole


def shard_name():
    return "images-00001-of-00002.array_record"


def test_a_shard_that_vanishes_while_it_is_read(tmp_path):
    prepare(digits(), tmp_path, name="digits", shard_images=1000)
    source = record_folder(tmp_path)
    os.unlink(tmp_path / shard_name())
    assert len(source.gather(np.arange(10))["image"]) == 10
    with pytest.raises(InputError, match=f"{shard_name()}: damaged or gone"):
        source.gather(np.array([1500]))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "other"}', json.dumps({"format": "jaxdiff records 1"})])
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    assert is_record_folder(tmp_path)
    with pytest.raises(InputError, match=r"index\.json: not an index"):
        record_folder(tmp_path)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(InputError, match="Expected a folder that jaxdiff data prepare wrote"):
        record_folder(tmp_path)


@pytest.mark.parametrize("options", [{"workers": 0}, {"shard_images": 0}])
def test_numbers_that_make_no_sense(tmp_path, options):
    with pytest.raises(InputError, match=r"(workers|shard_images): expected at least 1, got 0"):
        prepare(digits(), tmp_path, name="digits", **options)


def test_moved_folders_are_read_where_they_are(tmp_path):
    prepare(digits(), tmp_path / "a", name="digits")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert_same(record_folder(tmp_path / "b"), digits())
