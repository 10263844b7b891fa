"""Runs at a URL: any machine goes on from what is there whole, and servers that speak as S3 and GCS do take them."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from processes import finish, free_port, start

from jaxdiff import remote
from jaxdiff.cli import main, sample_main, train_main

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import kill

URL = "memory://bucket/run"

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(autouse=True)
def bucket(monkeypatch, tmp_path):
    """What is in the memory of this process, at first nothing; and a machine."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine 1"))
    (tmp_path / "tiny.py").write_text(tiny.CONFIG)
    return MemoryFileSystem()


@pytest.fixture
def another_machine(monkeypatch, tmp_path):
    """Goes there; it has nothing of the run."""
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine 2"))


def train(tmp_path, *args, code=0):
    command = ["--config", str(tmp_path / "tiny.py"), "--run", URL, "--log.samples", "10", *args]
    if not code:
        return train_main(command)
    with pytest.raises(SystemExit) as caught:
        train_main(command)
    assert caught.value.code == code


def steps(bucket):
    return sorted(json.loads(bucket.cat_file("/bucket/run/finished.json"))["folders"])


def copied(trained, tmp_path, name="run"):
    """A finished run at a place of its own, with steps 4 and 6, and the URL behind it."""
    return remote.Remote(URL, shutil.copytree(trained / "run", tmp_path / name))


def forget(place, *names):
    """As if that had not been done yet."""
    for name in names:
        shutil.rmtree(place.folder / "checkpoints" / name)


def check_same(run, whole):
    assert kill.unsound(run) == []
    assert kill.differences(run, whole, 6) == []


@pytest.mark.slow
def test_another_machine_goes_on_bitwise(tmp_path, bucket, another_machine, trained, capsys):
    train(tmp_path, "--train.steps", "4")
    assert steps(bucket) == ["checkpoints/2", "checkpoints/4"]
    another_machine()
    train(tmp_path)
    assert f"{URL}: from step 4 to 6" in capsys.readouterr().out
    copy = remote.place(URL).folder
    check_same(copy, trained / "run")
    here = {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file() and p.name != ".lock"}
    assert {name.removeprefix("/bucket/run/") for name in bucket.find("/bucket/run")} == here
    assert all(bucket.cat_file(f"/bucket/run/{name}") == (copy / name).read_bytes() for name in here)
    assert {"run.json", "metrics.jsonl", "loss.png", "samples/step_000003.png"} <= here
    assert steps(bucket) == ["checkpoints/4", "checkpoints/6"]  # of which the first run's 2 is no more
    train(tmp_path)
    assert f"{URL}: finished" in capsys.readouterr().out


def test_reading_commands_take_the_url(tmp_path, bucket, trained, capsys):
    copied(trained, tmp_path).push()
    for _ in range(2):  # the second time nothing is left to be brought
        sample_main(["--run", URL, "--num", "4", "--steps", "2", "--out", str(tmp_path / "a.png")])
        copy = remote.place(URL, reading=True).folder
        assert {path.name for path in copy.iterdir()} == {"run.json", "finished.json", "checkpoints"}
    sample_main(["--run", str(trained / "run"), "--num", "4", "--steps", "2", "--out", str(tmp_path / "b.png")])
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png")))
    capsys.readouterr()
    main(["checkpoint", "list", "--run", URL])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["4", "6"]
    bucket.rm("/bucket/run", recursive=True)
    with pytest.raises(SystemExit) as caught:
        main(["checkpoint", "list", "--run", URL])
    assert caught.value.code == 2
    assert "no run here" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_cut_while_it_is_sent_does_not_count(tmp_path, bucket, another_machine, monkeypatch, trained, capsys):
    """The connection breaks amid the files of step 4, for good."""
    put, allowed = MemoryFileSystem.put_file, [0]

    def put_file(self, path, *args, **kwargs):
        allowed[0] -= "checkpoints/4/" in str(path)
        if allowed[0] <= -3:
            raise ConnectionError("the cable is out")
        put(self, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    train(tmp_path, "--train.steps", "4", code=2)
    said = capsys.readouterr().err
    assert "warning" in said
    assert "ConnectionError: the cable is out" in said
    assert "the same command sends it" in said
    assert steps(bucket) == ["checkpoints/2"]
    assert any("checkpoints/4/" in name for name in bucket.find("/bucket/run"))

    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    another_machine()
    train(tmp_path)
    assert f"{URL}: from step 2 to 6" in capsys.readouterr().out
    check_same(remote.place(URL).folder, trained / "run")


@pytest.mark.slow
def test_what_could_not_be_sent_is_kept_and_sent_later(tmp_path, bucket, monkeypatch, trained, capsys):
    """By the same command, which has nothing else to do; and the logs, which went there before, are whole too."""
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda *args, **kwargs: 1 / 0)
    train(tmp_path, code=2)
    assert not bucket.exists("/bucket/run/finished.json")
    monkeypatch.setattr(MemoryFileSystem, "put_file", MemoryFileSystem.__base__.put_file)
    train(tmp_path)
    assert f"{URL}: finished" in capsys.readouterr().out
    assert steps(bucket) == ["checkpoints/4", "checkpoints/6"]
    copy = remote.place(URL).folder
    check_same(copy, trained / "run")
    assert bucket.cat_file("/bucket/run/metrics.jsonl") == (copy / "metrics.jsonl").read_bytes()


def test_what_was_deleted_at_the_url_is_left_in_the_training_s_copy_alone(tmp_path, bucket, trained):
    copy, reader = copied(trained, tmp_path), remote.Remote(URL, tmp_path / "reading", logs=False)
    reader.folder.mkdir()
    copy.push()
    reader.pull()
    assert (reader.folder / "run.json").is_file()
    bucket.rm("/bucket/run", recursive=True)
    for one in (copy, reader):
        one.pull()
    assert [path for path in reader.folder.rglob("*") if path.is_file()] == []
    copy.push()
    assert steps(bucket) == ["checkpoints/4", "checkpoints/6"]
    assert bucket.exists("/bucket/run/metrics.jsonl")


def test_a_second_training_is_not_written_over(tmp_path, bucket, trained):
    first, second = copied(trained, tmp_path, "1"), copied(trained, tmp_path, "2")
    forget(first, "6")
    first.push()
    shutil.copy(first.folder / "finished.json", second.folder)
    second.push()
    with pytest.raises(remote.InputError, match="another training is writing there"):
        first.push()
    assert steps(bucket) == ["checkpoints/4", "checkpoints/6"]


@pytest.mark.parametrize("unsent", [False, True])
def test_what_another_machine_did_meanwhile_counts(tmp_path, bucket, trained, unsent):
    """The first machine comes back, having sent step 4 alone; perhaps with a step that it could not send."""
    first = copied(trained, tmp_path, "1")
    shutil.move(first.folder / "checkpoints" / "6", tmp_path / "6")
    first.push()
    second = remote.Remote(URL, tmp_path / "2")
    second.folder.mkdir()
    second.pull()
    shutil.copytree(tmp_path / "6", second.folder / "checkpoints" / "8")
    (second.folder / "metrics.jsonl").write_text("longer")
    second.push()
    if unsent:
        shutil.move(tmp_path / "6", first.folder / "checkpoints" / "6")
    first.pull()
    assert sorted(path.name for path in (first.folder / "checkpoints").iterdir() if path.name.isdigit()) == ["4", "8"]
    assert (first.folder / "metrics.jsonl").read_text() == "longer"


def test_a_changed_checkpoint_of_the_same_step_is_brought_anew(tmp_path, bucket, trained):
    """The run at the URL was deleted, and another one made there."""
    first, copy = copied(trained, tmp_path, "1"), remote.Remote(URL, tmp_path / "2", logs=False)
    first.push()
    copy.folder.mkdir()
    copy.pull()
    sums = first.folder / "checkpoints" / "6" / "checksums.json"
    sums.write_text(sums.read_text() + " ")
    first.push()
    copy.pull()
    assert (copy.folder / "checkpoints" / "6" / "checksums.json").read_bytes() == sums.read_bytes()


@pytest.mark.slow
def test_snapshots_are_sent_too(tmp_path, bucket, another_machine):
    train(tmp_path, "--train.ema-lengths", "0.05", "0.1", "--log.snapshot-every", "2")
    assert {"snapshots/2", "snapshots/4", "snapshots/6"} <= set(steps(bucket))
    another_machine()
    main(["ema", "--run", URL, "--length", "0.07", "--out", str(tmp_path / "w.safetensors")])
    assert (tmp_path / "w.safetensors").stat().st_size > 1000


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("memory://run", "expected a folder, or memory://BUCKET/RUN"),
        ("gs://", "expected a folder, or gs://BUCKET/RUN"),
        ("gs:/bucket/run", "expected a folder, or gs://BUCKET/RUN"),
        ("nonsense://bucket/run", "Protocol not known: nonsense"),
        (f"{URL}/nothing", "no run here"),
    ],
)
def test_what_is_wrong_with_a_url(tmp_path, run, said, capsys):
    with pytest.raises(SystemExit) as caught:
        sample_main(["--run", run, "--num", "1", "--out", str(tmp_path / "a.png")])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)
    with pytest.raises(SystemExit) as caught:
        train_main(["--config", str(tmp_path / "tiny.py"), "--run", "gs://bucket/run"])
    assert caught.value.code == 2
    assert "pip install 'jaxdiff[gs]'" in capsys.readouterr().err


# --- servers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def s3(tmp_path):
    """S3's protocol, with a bucket: what reaches it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", free_port())
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    environment = {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"
    }  # fmt: skip
    make = "import s3fs; s3fs.S3FileSystem().mkdir('bucket')"
    yield "s3://bucket/runs/tiny", environment, make
    server.stop()


@pytest.fixture
def gs(monkeypatch):
    """GCS's protocol, with a bucket: what reaches it."""
    from gcp_storage_emulator import server as emulator

    # gcsfs ends a file by "\n--==0==": of one that ends in "\r" the emulator's parser takes "\r\n" for the line's end, and
    # loses a byte (of every 256th checksum). As the standard has it, "\r\n--==0==", nothing is lost.
    decoded = emulator._decode_raw_data
    monkeypatch.setattr(
        emulator,
        "_decode_raw_data",
        lambda raw, handler: (decoded(raw, handler) or b"").replace(b"\n--==0==", b"\r\n--==0=="),
    )
    port = free_port()
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    yield "gs://bucket/runs/tiny", {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}, "0"
    server.stop()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happens to, by a process as those below."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.py").write_text(tiny.CONFIG)
    finish(start(folder, "--config", "tiny.py", "--run", "run"))
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_the_protocols_of_real_stores(kind, tmp_path, whole, request):
    """Through the scripts, as processes: trained on one machine, gone on with on another, sampled on a third."""
    url, environment, make = request.getfixturevalue(kind)
    subprocess.run([sys.executable, "-c", make], env=os.environ | environment, check=True)

    def on(machine, *args, **options):
        return finish(
            start(tmp_path, *args, environment=environment | {"XDG_CACHE_HOME": str(tmp_path / machine)}, **options)
        )

    assert "from step 0 to 4" in on("1", "--config", "tiny.py", "--run", url, "--train.steps", "4")
    assert "from step 4 to 6" in on("2", "--config", "tiny.py", "--run", url)
    (copy,) = (tmp_path / "2" / "jaxdiff" / "training").iterdir()
    check_same(copy, whole)
    on("3", "--run", url, "--num", "4", "--steps", "2", "--out", "a.npz", script="sample.py")
    on("3", "--run", str(whole), "--num", "4", "--steps", "2", "--out", "b.npz", script="sample.py")
    assert np.array_equal(np.load(tmp_path / "a.npz")["images"], np.load(tmp_path / "b.npz")["images"])
