"""Files are whole or not there."""

import pytest

from jaxdiff.files import write_atomically


def test_a_file_and_its_folders_are_written(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("old", [b"old", None])
def test_a_writer_that_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path, old):
    path = tmp_path / "file.bin"
    if old:
        path.write_bytes(old)

    def fail(file):
        file.write(b"half")
        file.flush()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"file.bin": old} if old else {})


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert (seen, path.read_bytes()) == ([b"old"], b"new")
