"""Pictures from a file that `jaxdiff export` wrote: JAX, NumPy and flatbuffers (which jax.export reads programs by) are
all it takes. No network library, no config, no run.

    served = serving.load("digits.jaxdiff")
    images = served(16, labels=[3], seed=1)  # uint8 [16, 8, 8, 1], those of sample.py --seed 1 --labels 3

The file is a zip, nothing in it compressed: `manifest.json`, `program.jax_export` and, unless they lie beside it,
`weights.safetensors`. The program is the sampler with all its steps, as StableHLO, for any batch:

    ({name: weight}, {"seed": uint32, "index": int32 [B], ...}) -> float32 [B, H, W, C]

with the inputs that `manifest["inputs"]` names. How random numbers are made was fixed when it was exported
(`manifest["random"]`), whatever JAX is set to where it runs.

What JAX promises of such programs: they run in a jax and jaxlib up to 6 months newer, and up to 3 weeks older, than
those that exported them, by the dates of jaxlib's releases; JAX may drop the reading of calling conventions older than
6 months. Beyond that a program may run, or be refused in words. To keep one for long, keep the run or the weights too,
and export anew.

Source: JAX's documentation, Exporting and serializing staged-out computations, "Compatibility guarantees" and "Calling
convention versions" (docs.jax.dev, export/export.html).
"""

import dataclasses
import hashlib
import json
import math
import operator
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from jaxdiff.pixels import to_uint8
from jaxdiff.typing import Array, InputError

FORMAT, VERSION = "jaxdiff sampler", 1
MANIFEST, PROGRAM, WEIGHTS = "manifest.json", "program.jax_export", "weights.safetensors"
CALLS = frozenset({"shape_assertion", "cu_threefry2x32_ffi", "hip_threefry2x32_ffi"})
"""What a program may call besides StableHLO's operations: checks of shapes, and random numbers."""
ABSENT = {
    "guidance": "it has no labels, or was exported with --guidance 1, which calls the network once a time",
    "temperature": "its sampler draws no noise",
    "classifier_scale": "no --classifier guides it",
    "labels": "its model knows none",
}


@dataclasses.dataclass(frozen=True)
class Served:
    """A sampler with its weights on the default device; call it. Calls from several threads may overlap.

    Attributes:
      manifest: what the file says of itself: `inputs` with ranges and defaults, `image_shape`, `sampler`, ...
      run: the program, compiled for every size of batch when that is first met.
      weights: its first argument.
    """

    manifest: Mapping[str, Any]
    run: Callable[[Mapping[str, Array], Mapping[str, Any]], Array] = dataclasses.field(repr=False)
    weights: Mapping[str, Array] = dataclasses.field(repr=False)

    def __call__(
        self,
        num: int = 4,
        *,
        seed: int | None = None,
        labels: Sequence[int] | int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        classifier_scale: float | None = None,
        batch: int | None = None,
        start: int = 0,
        floats: bool = False,
    ) -> np.ndarray:
        """Pictures number start..start + num - 1 of a seed: as sample.py makes them, whatever the batch.

        What is None is as it was exported. No value of an argument but a new size of batch compiles anything.

        Args:
          num: how many, from 1.
          seed: picture i is a function of the seed and i; 0 <= seed < 2^32.
          labels: from 0 to classes - 1, in turn from the first of these pictures. By default picture i has the i-th of
            the labels given at export, in turn; without any given, every class in turn.
          guidance: the scale of classifier-free guidance, any finite number.
          temperature: scales the noise that the sampler draws, 0 or more.
          classifier_scale: how strongly the classifier guides, any finite number.
          batch: at a time; a last one, or num if it is less, is filled up. By default at most what was given at
            export, and no more than num, so that each num below it is compiled for itself: a server gives its batch.
          start: the number of the first; start + num <= 2^31.
          floats: float32 as the program makes them, in [-1, 1] or little beyond; latents come in no other way.

        Returns:
          uint8, or float32, `[num, H, W, C]`.

        Raises:
          InputError: a value outside of its range, or of what the program has no input for; uint8 asked of latents;
            a picture is NaN or infinite.
        """
        num = _whole("num", num, 1, 2**31)
        start = _whole("start", start, 0, 2**31 - num)
        size = min(num, self.manifest["batch"]) if batch is None else _whole("batch", batch, 1, 2**31)
        given = {"guidance": guidance, "temperature": temperature, "classifier_scale": classifier_scale}
        seed = _whole("seed", self._default("seed") if seed is None else seed, 0, 2**32 - 1)
        inputs: dict[str, Any] = {"seed": np.uint32(seed)}
        inputs |= {name: found for name, value in given.items() if (found := self._scale(name, value)) is not None}
        if self.manifest["makes"] == "latents" and not floats:
            raise InputError("this program makes an autoencoder's latents: give floats=True, and decode them")
        label, parts = self._labels(labels, num, start), []
        for first in range(0, num, size):
            place = np.minimum(np.arange(first, first + size), num - 1)
            some = {} if label is None else {"label": label[place]}
            x = np.asarray(self.run(self.weights, inputs | some | {"index": (start + place).astype(np.int32)}))
            parts.append(x[: num - first])
        images = np.concatenate(parts)
        if not np.isfinite(images).all():
            raise InputError("the pictures are not finite: lower the guidance or the temperature")
        return images if floats else to_uint8(images)

    def _check(self) -> None:
        """Raise for a manifest that no call could be made with."""
        _whole("batch", self.manifest["batch"], 1, 2**31)
        _whole("seed", self._default("seed"), 0, 2**32 - 1)
        self._labels(None, 1, 0)
        for name in ("guidance", "temperature", "classifier_scale"):
            self._scale(name, None)
        if self.manifest["makes"] not in ("pictures", "latents"):
            raise ValueError(f"it makes {self.manifest['makes']!r}")

    def _default(self, name: str) -> Any:
        return self.manifest["inputs"][name]["default"]

    def _scale(self, name: str, value: float | None) -> np.float32 | None:
        """What was given or else is the default, as the program takes it; None for what it has no input for."""
        if name not in self.manifest["inputs"]:
            if value is not None:
                raise InputError(f"{name} {value}: this program has no such input; {ABSENT[name]}")
            return None
        value = self._default(name) if value is None else value
        least = 0.0 if name == "temperature" else -math.inf
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise InputError(f"{name} {value!r}: expected a number")
        with np.errstate(over="ignore"):
            number = np.float32(value)
        if not (np.isfinite(number) and number >= least):
            raise InputError(f"{name} {value}: expected {'0 or more' if least == 0 else 'a number'}, of float32")
        return number

    def _labels(self, labels: Sequence[int] | int | None, num: int, start: int) -> np.ndarray | None:
        """int32 `[num]`, or None for a model without."""
        if "label" not in self.manifest["inputs"]:
            if labels is not None:
                raise InputError(f"labels {labels!r}: this program has no such input; {ABSENT['labels']}")
            return None
        last = _whole("classes", self.manifest["inputs"]["label"]["range"][1], 0, 2**31 - 1)
        asked = self._default("label") if labels is None else labels
        turn = np.arange(last + 1) if asked is None else np.atleast_1d(np.asarray(asked))
        if turn.ndim != 1 or not turn.size or turn.dtype.kind not in "iu" or turn.min() < 0 or turn.max() > last:
            raise InputError(f"labels {asked!r}: expected whole numbers from 0 to {last}, at least one of them")
        return turn[((start if labels is None else 0) + np.arange(num)) % len(turn)].astype(np.int32)


def load(path: Path | str) -> Served:
    """The sampler in a file of `jaxdiff export`, ready to be called; nothing is compiled yet.

    What is in the file is read, never unpickled or run; its program may call nothing but XLA's own operations and
    `CALLS`. Sums show damage, not who made it: JAX wants programs from those you trust, since a compiler reads them.

    Raises:
      InputError: not such a file, or cut short or damaged; weights beside it that are gone or others; a format, or a
        program, that this jaxdiff or this JAX cannot read; a platform that it was not lowered for; no flatbuffers.

    >>> load("run.json")
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: run.json: no such file
    """
    path = Path(path)
    with _reading(path):
        manifest, program, weights = _members(path)
        exported = _program(path, manifest, program)
        like, inputs = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]
        tensors = read_tensors(weights)
        found, expected = ({name: (a.shape, a.dtype) for name, a in tree.items()} for tree in (tensors, like))
        if found != expected or inputs.keys() != manifest["inputs"].keys():
            raise InputError(f"{path}: damaged: the program is for other weights or inputs; export it anew")
        run = jax.jit(lambda weights, inputs: exported.call(weights, inputs))
        served = Served(manifest, run, jax.device_put(tensors))
        try:
            served._check()
        except InputError as error:  # of a manifest, not of a call
            raise ValueError(str(error)) from error
    return served


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """The float32 arrays of a .safetensors file, by name.

    Raises:
      ValueError, or another error of what is read: it is none, or has other numbers in it.

    Source: the format's description (huggingface.co/docs/safetensors): eight bytes that say how long a header of JSON
    is, the header, and the numbers, little-endian.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:end]), memoryview(content)[end:]
    arrays = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        if about["dtype"] != "F32":
            raise ValueError(f"{name} is of {about['dtype']}, expected F32")
        first, last = about["data_offsets"]
        arrays[name] = np.frombuffer(body[first:last], "<f4").reshape(about["shape"])
    return arrays


def check_calls(exported: export.Exported) -> None:
    """Raise `InputError` for a program that calls anything but StableHLO's operations and `CALLS`."""
    text = re.sub(rf"stablehlo\.custom_call @({'|'.join(CALLS)})\(", "", exported.mlir_module())
    found = re.search(r"custom_call[^\n(]{0,80}", text)
    if found:
        raise InputError(f"the program has a call that is not allowed in it: {found[0]}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong with what is in the file, as `InputError`."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path}: no such file") from None
    except Exception as error:  # of what is read, in whichever library, which may be anything
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: no file of jaxdiff export, or cut short or damaged ({said})") from error


def _members(path: Path) -> tuple[dict[str, Any], bytes, bytes]:
    """The manifest, the program and the weights, whose sums are right."""
    with zipfile.ZipFile(path) as file:
        if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()):
            raise ValueError("a member is compressed")
        manifest = json.loads(file.read(MANIFEST))
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}")
        if manifest["format_version"] != VERSION:
            raise InputError(
                f"{path}: its format has version {manifest['format_version']}, this jaxdiff reads {VERSION}; install "
                f"the jaxdiff that wrote it, {manifest['versions']['jaxdiff']}, or export it anew"
            )
        inside = WEIGHTS in file.namelist()
        beside = None if inside else path.with_name(manifest["weights"]["file"])  # which refuses all but plain names
        program = file.read(PROGRAM)
        weights = file.read(WEIGHTS) if beside is None else beside.read_bytes()
    for content, part, file_of in ((program, "program", path), (weights, "weights", beside or path)):
        if hashlib.sha256(content).hexdigest() != manifest[part]["sha256"]:
            raise InputError(
                f"{file_of}: damaged, or of another export: the sha256 of its {part} is not the manifest's; export anew"
            )
    return manifest, program, weights


def _program(path: Path, manifest: Mapping[str, Any], program: bytes) -> export.Exported:
    """The program, if it can be run here."""
    try:
        exported = export.deserialize(bytearray(program))
    except ImportError as error:
        raise InputError(f"jax.export reads programs by flatbuffers: pip install flatbuffers ({error})") from error
    low, high = export.minimum_supported_calling_convention_version, export.maximum_supported_calling_convention_version
    by = f"exported by jax {manifest['versions']['jax']}, this is jax {jax.__version__}"
    if not low <= exported.calling_convention_version <= high:
        version = exported.calling_convention_version
        raise InputError(
            f"{path}: {by}, which reads calling conventions {low} to {high}, not {version}: export it anew, or install "
            "that jax"
        )
    here = export.default_export_platform()
    if here not in exported.platforms:
        raise InputError(
            f"{path}: lowered for {', '.join(exported.platforms)}, and this machine's platform is {here}: export it "
            f"with --platforms {here}, or choose another by the environment's JAX_PLATFORMS"
        )
    try:
        check_calls(exported)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # StableHLO's own versions
        raise InputError(f"{path}: {by}, which cannot read its StableHLO ({error}): export it anew") from error
    return exported


def _whole(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise InputError(f"{name} {value!r}: expected a whole number from {low} to {high}")
    return number
