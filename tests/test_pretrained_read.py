"""Weights are read as they are, and nothing that is no weights is read, let alone run."""

import contextlib
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest
import torch_file
from safetensors.numpy import save_file

from jaxdiff import InputError
from jaxdiff.pretrained import read_weights

rng = np.random.default_rng(0)
WEIGHTS = {
    "conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "conv.bias": rng.standard_normal(4),
    "steps": np.arange(5),
    "half": rng.standard_normal((2, 3)).astype(np.float16),
    "scalar": np.array(2.5, np.float32),
    "none": np.zeros((0, 3), np.float32),
}


def assert_same(found, arrays):
    """The same numbers in the same dtypes."""
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_read_as_they_were_written(tmp_path, protocol):
    torch_file.save(tmp_path / "model.pt", WEIGHTS, protocol=protocol)
    found = read_weights(tmp_path / "model.pt")
    assert list(found) == list(WEIGHTS)
    assert_same(found, WEIGHTS)


def test_a_training_state_keeps_its_numbers_and_words(tmp_path):
    state = {"step": 70_000, "model": WEIGHTS, "lr": 1e-4, "version": "1.2", "on": True, "no": None, "l": [1, (2, -3)]}
    torch_file.save(tmp_path / "model.pt", state)
    found = read_weights(tmp_path / "model.pt")
    np.testing.assert_array_equal(found["model"]["conv.bias"], WEIGHTS["conv.bias"])
    assert {name: found[name] for name in state if name != "model"} == {n: v for n, v in state.items() if n != "model"}


def test_strides_and_shared_storages(tmp_path):
    """A transposed tensor, and a part of another: one storage, two tensors."""
    storage = torch_file.Storage(torch_file.FloatStorage, "0", 6)
    value = OrderedDict(a=torch_file.Tensor(storage, 0, (3, 2), (1, 3)), b=torch_file.Tensor(storage, 4, (2,), (1,)))
    torch_file.save_tensors(tmp_path / "m.pt", value, [np.arange(6, dtype=np.float32).tobytes()])
    found = read_weights(tmp_path / "m.pt")
    assert found["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["b"].tolist() == [4, 5]


def test_safetensors_with_bfloat16(tmp_path):
    arrays = {"a": WEIGHTS["conv.weight"], "b": np.asarray(jnp.arange(4, dtype=jnp.bfloat16)), "c": WEIGHTS["half"]}
    save_file(arrays, tmp_path / "m.safetensors")
    found = read_weights(tmp_path / "m.safetensors")
    assert_same(found, arrays)


class Evil:
    """What a pickle can do."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_code_is_refused_and_not_run(tmp_path, protocol):
    ran = tmp_path / "ran"
    for value in (Evil(os.system, f"touch {ran}"), {"a": Evil(eval, f"open({str(ran)!r}, 'w')")}, [Evil(exec, "1")]):
        torch_file.write_zip(tmp_path / "m.pt", pickle.dumps(value, protocol))
        with pytest.raises(
            InputError, match=r"m\.pt: (refused, nothing was run: it calls for|its data.pkl has the instr)"
        ):
            read_weights(tmp_path / "m.pt")
        assert not ran.exists()
    assert os.system(f"touch {ran}") == 0
    assert ran.exists()  # it would have


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\x80\x02}q\x00.trailing",  # a dictionary: fine, but for what follows
        b"\x80\x02}q\x00X\xff\xff\xff\x7fa.",  # two GiB of a name, announced
        b"\x80\x02\x8a\xffa.",  # a long integer cut short
        b"\x80\x02r\xff\xff\xff\x7f.",  # memo of nothing
        b"\x80\x02jfoo\x00.",  # of no such place
        b"\x80\x02]q\x00h\x00a.",  # a list in itself, no dictionary
        b"\x80\x02}(K\x01u.",  # a name without its value
        b"\x80\x02})}s.",  # a tuple as a name
        b"\x80\x02tttt.",
        b"\x80\x02}b.",  # attributes of nothing
        b"\x80\x02ctorch\nFloatStorage\n)R.",  # a storage is not called
        b"\x80\x02ccollections\nOrderedDict\n(]K\x01atR.",  # nor is a dictionary made of numbers
        b"\x80\x02ccollections\nOrderedDict\n(}tR.",  # or of a dictionary
        b"\x80\x02(X\x07\x00\x00\x00storageNX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
        b"\x80\x02" + b"(" * 5000 + b"t" * 5000 + b".",
        b"\x80\x02K\x05.",  # a number
        b"cbuiltins\nglobals\n.",
        b"\x80\x02\x82\x01.",  # a registered extension
        b"\x80\x04)" + b"2\x86" * 60 + b"\x8c\x01a\x93.",  # a name of 2^60 tuples
        b"\x80\x02]q\x00(" + b"\x8a\xff" + b"\x7f" * 255 + b"q\x01" + b"h\x01" * 300_000 + b"t.",
    ],
)
def test_broken_pickles_are_refused(tmp_path, program):
    torch_file.write_zip(tmp_path / "m.pt", program)
    if program.endswith(b"trailing"):
        assert read_weights(tmp_path / "m.pt") == {}
        return
    with pytest.raises(InputError, match=r"m\.pt: "):
        read_weights(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),
        ({"numel": 10**12}, "announced"),
        ({"strides": (0,)}, None),
        ({"strides": (2,)}, "does not lie within"),
        ({"strides": (-1,)}, "no strides"),
        ({"strides": (1, 1)}, "no strides"),
        ({"strides": (1.0,)}, "no strides"),
        ({"byteorder": b"big"}, "big-endian"),
    ],
)
def test_tensors_beyond_the_file_are_refused(tmp_path, options, message):
    torch_file.save(tmp_path / "m.pt", {"a": np.zeros(1 if options.get("strides") == (0,) else 100)}, **options)
    if message is None:
        assert read_weights(tmp_path / "m.pt")["a"].tolist() == [0.0]
        return
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "m.pt")


def test_one_number_as_terabytes_is_refused(tmp_path):
    value = {"a": torch_file.Tensor(torch_file.Storage(torch_file.FloatStorage, "0", 1), 0, (10**6, 10**6), (0, 0))}
    torch_file.save_tensors(tmp_path / "m.pt", value, [bytes(4)])
    with pytest.raises(InputError, match="does not lie within its 1 numbers"):
        read_weights(tmp_path / "m.pt")


def test_parts_that_overlap_are_refused(tmp_path):
    """Two entries of the directory that point at the same bytes: more is announced than the file holds."""
    path = tmp_path / "m.pt"
    torch_file.save(path, {"a": np.zeros(4000), "b": np.ones(1)})
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("c", "d", "e"):
            entry = zipfile.ZipInfo(f"archive/data/{name}")
            big = archive.getinfo("archive/data/0")
            entry.header_offset, entry.CRC = big.header_offset, big.CRC
            entry.file_size = entry.compress_size = big.file_size
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
        archive._didModify = True
    with pytest.raises(InputError, match="larger than the file"):
        read_weights(path)


@pytest.mark.parametrize("cut", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_file_cut_short_is_refused(tmp_path, cut, kind):
    path = tmp_path / f"m.{kind}"
    if kind == "pt":
        torch_file.save(path, WEIGHTS)
    else:
        save_file(WEIGHTS, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(InputError, match=r"broken, or cut short"):
        read_weights(path)


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "m.pt"
    torch_file.save(path, {"a": np.arange(1000.0)})
    data = bytearray(path.read_bytes())
    data[data.find(np.float64(500).tobytes())] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="broken, or cut short"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither"),
        (b"hello, world, this is no model", "neither"),
        (pickle.dumps({"a": 1}), "a bare pickle"),
        (struct.pack("<Q", 2**62) + b"{", "broken, or cut short"),  # a header of four exabytes
        (struct.pack("<Q", 10) + b'{"a": [1]}', "broken, or cut short"),
    ],
)
def test_what_is_no_weights_is_refused(tmp_path, content, message):
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "m.bin")


def test_another_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(InputError, match=r"no data.pkl"):
        read_weights(tmp_path / "m.zip")
    torch_file.write_zip(tmp_path / "n.pt", pickle.dumps([1, 2], 2))
    with pytest.raises(InputError, match="holds list, expected a dictionary"):
        read_weights(tmp_path / "n.pt")


def test_a_shape_of_many_huge_numbers_is_refused(tmp_path):
    """Their product alone would take minutes."""
    huge = (1 << 2000,) * 1000
    value = {"a": torch_file.Tensor(torch_file.Storage(torch_file.FloatStorage, "0", 1), 0, huge, (0,) * 1000)}
    torch_file.save_tensors(tmp_path / "m.pt", value, [bytes(4)])
    with pytest.raises(InputError, match="no shape, or no strides"):
        read_weights(tmp_path / "m.pt")


def test_many_views_of_the_same_numbers_are_refused(tmp_path):
    storage = torch_file.Storage(torch_file.FloatStorage, "0", 10**5)
    value = {str(i): torch_file.Tensor(storage, 0, (10**5,), (1,)) for i in range(100)}
    torch_file.save_tensors(tmp_path / "m.pt", value, [bytes(4 * 10**5)])
    with pytest.raises(InputError, match="far more numbers than the file"):
        read_weights(tmp_path / "m.pt")


def test_random_damage_is_an_input_error_or_nothing(tmp_path):
    for kind in ("pt", "safetensors"):
        path = tmp_path / f"m.{kind}"
        if kind == "pt":
            torch_file.save(path, {"a": np.arange(9.0), "b": np.ones((2, 3), np.float32)})
        else:
            save_file({"a": np.arange(9.0), "b": np.ones((2, 3), np.float32)}, path)
        data = path.read_bytes()
        for seed in range(2000):
            draw = np.random.default_rng(seed)
            changed = bytearray(data)
            for _ in range(draw.integers(1, 4)):
                changed[draw.integers(len(data))] = draw.integers(256)
            path.write_bytes(bytes(changed))
            with contextlib.suppress(InputError):
                read_weights(path)


def test_integers_of_64_bits_stay_what_they_are(tmp_path):
    arrays = {"i": np.array([2**40 + 1]), "u": np.array([2**63], np.uint64), "d": np.array([1 + 2.0**-50])}
    save_file(arrays, tmp_path / "m.safetensors")
    found = read_weights(tmp_path / "m.safetensors")
    assert_same(found, arrays)
    header = b'{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "f8.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(2))
    with pytest.raises(InputError, match="a has numbers of the kind F8_E4M3"):
        read_weights(tmp_path / "f8.safetensors")
