"""The digits with EDM's design: preconditioned network, log-normal noise levels, its weight, Heun's method.

Command: python train.py --config configs/digits_edm.py
Hardware, time: as configs/digits.py, two and a half minutes on 2 CPU cores.
Result: not measured yet (benchmarks/digits_quality.py does).
"""

import dataclasses
import runpy
from pathlib import Path

from jaxdiff.config import Diffusion, Sample

base = runpy.run_path(str(Path(__file__).with_name("digits.py")))["config"]
config = dataclasses.replace(
    base,
    diffusion=Diffusion(schedule="edm", kind="F", preconditioning="edm", times="log_normal", weight="edm"),
    sample=Sample(sampler="heun", steps=18, spacing="karras", guidance=1.5),
)
