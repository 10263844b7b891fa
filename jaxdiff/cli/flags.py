"""Flags of XLA that a measurement recommends. Only the scripts set them: a library must not, and an unknown flag aborts
the process, so each goes with the versions of jaxlib that it was measured on. benchmarks/RESULTS.md has the figures."""

import importlib.util
import os

from jaxlib.version import __version__

PLUGINS = ("libtpu", "jax_plugins")
"""What other devices than CPUs come with."""

RECOMMENDED = {
    # YNNPACK runs convolutions with up to 64 output channels on one core; Eigen, which takes them instead, on all.
    (0, 10): {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
}
"""By the first two numbers of the version of jaxlib."""


def version() -> tuple[int, int]:
    """Of jaxlib: the first two numbers."""
    major, minor, *_ = __version__.split(".")
    return int(major), int(minor)


def use_recommended_flags() -> None:
    """Add to XLA_FLAGS what is `RECOMMENDED`. What the variable says of a flag already stays; JAXDIFF_XLA_FLAGS=0 adds
    none. To be called before JAX starts its devices."""
    given = os.environ.get("XLA_FLAGS", "").split()
    others = any(importlib.util.find_spec(name) for name in PLUGINS)  # which bring an XLA, and flags, of their own
    if others or not all(flag.startswith("--") for flag in given):  # the latter: a file of flags
        return
    known = {flag.split("=")[0] for flag in given}
    added = [f"--{name}={value}" for name, value in RECOMMENDED.get(version(), {}).items() if f"--{name}" not in known]
    if added and os.environ.get("JAXDIFF_XLA_FLAGS") != "0":
        os.environ["XLA_FLAGS"] = " ".join([*given, *added])
