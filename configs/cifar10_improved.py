"""CIFAR-10, unconditional, as improved DDPM's hybrid model (Nichol & Dhariwal 2021, arXiv 2102.09672, table 2).

Command: pip install -e '.[tfds]' && python train.py --config configs/cifar10_improved.py
The paper: FID 3.19 and 3.17 bits/dim with 4,000 steps of sampling, 500k steps of training.
Hardware, time, result here: not measured yet.
"""

from jaxdiff.config import Config, Data, Diffusion, Log, Optim, Sample, Train, UNet

config = Config(
    data=Data(name="tfds:cifar10", labels=False),
    # The network is told 1,000 k / T, whatever T is.
    diffusion=Diffusion(schedule="cosine", steps=4000, step_scale=0.25, kind="eps", learned_variance=True),
    model=UNet(
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=3,
        attention_resolutions=(16, 8),
        heads=4,
        resample_in_block=False,
        freq_shift=0.0,
        cos_first=True,
        dropout=0.3,
    ),
    optim=Optim(name="adamw", learning_rate=1e-4, warmup=0, clip=0.0),
    train=Train(steps=500_000, batch_size=128, ema_decay=0.9999),
    sample=Sample(sampler="ddpm", steps=4000, variance="learned_range"),
    log=Log(every=100, samples_every=25_000, samples=64, checkpoint_every=10_000),
)
