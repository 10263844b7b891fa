"""Is a checkpoint what was written? Its files' sizes and sums are written with it, before it is committed."""

import json
import zlib
from pathlib import Path

NAME = "checksums.json"
NOT_SUMMED = (NAME, "_CHECKPOINT_METADATA", "commit_success.txt")  # orbax writes the last two later


def write_sums(folder: Path) -> None:
    """Write the size and CRC-32 of every file under a folder into it."""
    (folder / NAME).write_text(json.dumps({name: [path.stat().st_size, _crc(path)] for name, path in _files(folder)}))


def write_sums_of_step(folder: Path, step: int) -> None:
    """The same for the step that orbax is about to commit in a folder of steps: it still has a temporary name."""
    for path in folder.glob(f"{step}.orbax-checkpoint-tmp*"):
        write_sums(path)


def damage(folder: Path, *, below: str = "") -> list[str]:
    """What is wrong with a folder's files, by the sums in it; nothing if they are as written, or if there are no sums.

    Args:
      folder: with the sums in it.
      below: look only at the files whose names in it begin so.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_text("one"), (folder / "b").write_text("two")
    >>> write_sums(folder); damage(folder)
    []
    >>> _ = (folder / "a").write_text("on"); (folder / "b").unlink(); damage(folder)
    ['a has 2 of 3 bytes', 'b is missing']
    """
    try:
        sums = json.loads((folder / NAME).read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        return [f"{NAME} cannot be read ({error})"]
    wrong = []
    for name, (size, crc) in sums.items():
        if not name.startswith(below):
            continue
        path = folder / name
        try:
            found = path.stat().st_size
            if found != size:
                wrong.append(f"{name} has {found:,} of {size:,} bytes")
            elif _crc(path) != crc:
                wrong.append(f"{name} has other bytes than were written")
        except FileNotFoundError:
            wrong.append(f"{name} is missing")
        except OSError as error:
            wrong.append(f"{name} cannot be read ({error})")
    return wrong


def unreadable(path: Path) -> str:
    """What is wrong with a JSON file; nothing if it can be read, or is not there.

    >>> unreadable(Path("none"))
    ''
    """
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        return f"{path.name} cannot be read ({error})"
    return ""


def _files(folder: Path) -> list[tuple[str, Path]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path) for path in paths if path.name not in NOT_SUMMED]


def _crc(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**22):
            crc = zlib.crc32(block, crc)
    return crc
