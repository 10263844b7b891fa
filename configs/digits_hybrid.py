"""The digits with a learned variance: improved DDPM's hybrid loss, sampled ancestrally.

Command: python train.py --config configs/digits_hybrid.py
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
    diffusion=Diffusion(schedule="cosine", kind="eps", learned_variance=True),
    sample=Sample(sampler="ddpm", steps=100, guidance=1.5),
)
