"""CIFAR-10, unconditional: DDPM++ on the VP SDE in continuous time (Song et al. 2021, arXiv 2011.13456, appendix H).

Command: pip install -e '.[tfds]' && python train.py --config configs/cifar10_ddpmpp.py
The paper: FID 2.55 (table 3); by the probability flow FID 3.93 and 3.16 bits/dim (table 2); 1.3M steps of training.
Hardware, time, result here: not measured yet.
"""

from jaxdiff.config import Config, Data, Diffusion, Log, NCSNpp, Optim, Sample, Train

config = Config(
    data=Data(name="tfds:cifar10", flip=True, labels=False),
    diffusion=Diffusion(schedule="vp", kind="eps", step_scale=0.999),  # it is told 999 t
    model=NCSNpp(dropout=0.1),
    optim=Optim(learning_rate=2e-4, warmup=5000, clip=1.0),
    train=Train(steps=1_300_000, batch_size=128, ema_decay=0.9999),
    sample=Sample(sampler="euler_maruyama", steps=1000, spacing="uniform", clip=False),
    log=Log(every=100, samples_every=50_000, samples=64, checkpoint_every=10_000),
)
