"""Files of torch before 1.6, as many published weights still are: read as they are, and no more run than others."""

import contextlib
import pickle
import struct

import numpy as np
import pytest
import torch_file

from jaxdiff import InputError
from jaxdiff.pretrained import read_weights

WEIGHTS = {
    "conv.weight": np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32),
    "conv.bias": np.random.default_rng(1).standard_normal(4),
    "steps": np.arange(5),
    "odd": np.ones(3, np.float16),  # what follows it does not lie at a multiple of four
    "scalar": np.array(2.5, np.float32),
}


def raw_file(*programs, storages=()):
    """Of pickles as they are, after those that every file begins with."""
    begin = [pickle.dumps(value, 2) for value in (torch_file.MAGIC, 1001, torch_file.MACHINE)]
    return b"".join([*begin, *programs, *(struct.pack("<q", len(s) // 4) + s for s in storages)])


def test_tensors_are_read_as_they_were_written(tmp_path):
    torch_file.save_legacy(tmp_path / "m.pth", {"model": WEIGHTS, "epoch": 7})
    found = read_weights(tmp_path / "m.pth")
    assert found["epoch"] == 7
    assert list(found["model"]) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(found["model"][name], array)
        assert found["model"][name].dtype == array.dtype


def test_as_python_2_wrote_them(tmp_path):
    """Words of bytes, a dictionary made of a list of pairs, and tensors by the function of torch before 0.4."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x015U\x03cpuK\x02NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00(K\x02t(K\x01ttR"
    program = b"\x80\x02ccollections\nOrderedDict\n](](U\x01a" + tensor + b"ee\x85R."
    numbers = np.array([1.5, -2], np.float32)
    (tmp_path / "m.pth").write_bytes(raw_file(program, b"\x80\x02]U\x015a.", storages=[numbers.tobytes()]))
    assert read_weights(tmp_path / "m.pth")["a"].tolist() == [1.5, -2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 1000}, "another version"),
        ({"machine": torch_file.MACHINE | {"little_endian": False}}, "big-endian"),
        ({"machine": 3}, "broken"),
        ({"view": (("1", 0, 4),)}, "parts of others"),
    ],
)
def test_other_versions_are_refused(tmp_path, options, message):
    torch_file.save_legacy(tmp_path / "m.pth", WEIGHTS, **options)
    with pytest.raises(InputError, match=rf"m\.pth: .*{message}"):
        read_weights(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (raw_file(pickle.dumps({"a": print}, 2)), "refused, nothing was run: it calls for .*builtin.*print"),
        (raw_file(pickle.dumps([1], 2), pickle.dumps([], 2)), "holds list, expected a dictionary"),
        (raw_file(pickle.dumps({}, 2)), "broken, or cut short"),
        (raw_file(pickle.dumps({}, 2), pickle.dumps(["0"], 2), storages=[b"1234"]), "broken, or cut short"),
        (raw_file(pickle.dumps({}, 2), b"\x80\x02])" + b"q\x00h\x00\x86" * 60 + b"a."), "broken, or cut short"),
        (raw_file(pickle.dumps({}, 2), pickle.dumps([], 2)) + b"more", "4 bytes after the last storage"),
        (
            raw_file(pickle.dumps({"a": "a" * 5_000_000}, 2), pickle.dumps([], 2)),
            "broken, or cut short",
        ),  # 5 MB of names
    ],
)
def test_what_is_no_weights_is_refused(tmp_path, content, message):
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "m.pth")


@pytest.mark.parametrize("numel", [-1, 2**62, 10, 8])
def test_a_storage_of_another_length_is_refused(tmp_path, numel):
    torch_file.save_legacy(tmp_path / "m.pth", {"a": np.arange(9.0)})
    data = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(data[:-80] + struct.pack("<q", numel) + data[-72:])
    with pytest.raises(InputError, match="broken, or cut short"):
        read_weights(tmp_path / "m.pth")


@pytest.mark.parametrize("cut", [0.1, 0.6, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, cut):
    torch_file.save_legacy(tmp_path / "m.pth", WEIGHTS)
    data = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(data[: int(cut * len(data))])
    with pytest.raises(InputError, match="broken, or cut short"):
        read_weights(tmp_path / "m.pth")


def test_random_damage_is_an_input_error_or_nothing(tmp_path):
    path = tmp_path / "m.pth"
    torch_file.save_legacy(path, {"a": np.arange(9.0), "b": np.ones((2, 3), np.float32)})
    data = path.read_bytes()
    for seed in range(2000):
        draw = np.random.default_rng(seed)
        changed = bytearray(data)
        for _ in range(draw.integers(1, 4)):
            changed[draw.integers(len(data))] = draw.integers(256)
        path.write_bytes(bytes(changed))
        with contextlib.suppress(InputError):
            read_weights(path)
