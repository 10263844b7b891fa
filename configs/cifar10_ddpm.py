"""CIFAR-10, unconditional, with the hyper-parameters of the DDPM paper (Ho et al. 2020, arXiv 2006.11239, appendix B).

Command: pip install -e '.[tfds]' && python train.py --config configs/cifar10_ddpm.py
Ours differs in one thing: the moving average warms up.
The paper: FID 3.17 and at most 3.75 bits/dim, 800k steps, 10.6 hours on a TPU v3-8.
Hardware, time, result here: not measured yet.
"""

from jaxdiff.config import Config, Data, Diffusion, Log, Optim, Sample, Train, UNet

config = Config(
    data=Data(name="tfds:cifar10", flip=True, labels=False),
    diffusion=Diffusion(schedule="linear", steps=1000, kind="eps"),
    model=UNet(
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=2,
        attention_resolutions=(16,),
        heads=1,
        scale_shift=False,
        resample_in_block=False,
        dropout=0.1,
    ),
    optim=Optim(name="adam", learning_rate=2e-4, warmup=5000, decay="constant", clip=1.0),
    train=Train(steps=800_000, batch_size=128, ema_decay=0.9999),
    sample=Sample(sampler="ddpm", steps=1000, variance="fixed_large"),
    log=Log(every=100, samples_every=10_000, samples=64, checkpoint_every=10_000),
)
