"""What diffusion is used for, as pure functions of a denoiser, a sampler and a time grid: composition, no mathematics.

A task is a function here, a command in `cli` and a page in the docs. What it needs of mathematics is in the rooms
below: `guidance`, `samplers`, `process`, `likelihood`.
"""
