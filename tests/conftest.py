"""Strict JAX for every test: no silent broadcasting of ranks, no silent mixing of dtypes, no warnings."""

import gc
import os
import tempfile
from pathlib import Path

# Several forced CPU devices on a small machine deadlock without it; it must be set before JAX starts.
os.environ.setdefault("NPROC", "8")
# Tests and the processes they start compile the same small networks over and over.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"jaxdiff-test-cache-{os.getuid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
gc.set_threshold(50_000, 20, 20)  # little of what tracing makes is garbage; 3 to 10 % of the time went into looking


@pytest.fixture(scope="module", autouse=True)
def forget_what_was_compiled():
    """Every executable holds mapped memory; those of a whole suite in one process exceed what Linux maps for one."""
    yield
    jax.clear_caches()


@pytest.fixture
def standard_promotion():
    """For tests that run optax's Adam, which raises a float to an int32 count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run of six steps beside its config file, made by train.py's own main. Copy it before changing it."""
    import tiny

    from jaxdiff.cli import train_main

    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.py").write_text(tiny.CONFIG)
    with jax.numpy_dtype_promotion("standard"):
        train_main(["--config", str(folder / "tiny.py"), "--run", str(folder / "run"), "--log.samples", "10"])
    return folder
