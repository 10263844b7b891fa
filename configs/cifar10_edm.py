"""CIFAR-10 with EDM's design on DDPM++ (Karras et al. 2022, arXiv 2206.00364, tables 1, 2 and 7), without augmentation.

Command: pip install -e '.[tfds]' && python train.py --config configs/cifar10_edm.py
Class-conditional: --data.labels True
The paper, 35 evaluations of the network: FID 1.97, class-conditional 1.79; its rows without augmentation 2.05 and 1.88.
Hardware, time, result here: not measured yet.
"""

from jaxdiff.config import Config, Data, Diffusion, Log, NCSNpp, Optim, Sample, Train

IMAGES = 512  # in a batch; the paper counts images: 200M, of which 10M of warm-up, a half-life of 0.5M of the average

config = Config(
    data=Data(name="tfds:cifar10", flip=True, labels=False),
    diffusion=Diffusion(schedule="edm", kind="F", preconditioning="edm", times="log_normal", weight="edm"),
    model=NCSNpp(multipliers=(2, 2, 2), dropout=0.13),
    optim=Optim(learning_rate=1e-3, warmup=10_000_000 // IMAGES, clip=0.0),
    train=Train(steps=200_000_000 // IMAGES, batch_size=IMAGES, ema_decay=0.5 ** (IMAGES / 500_000), label_dropout=0.0),
    sample=Sample(sampler="heun", steps=18, spacing="karras", clip=False),
    log=Log(every=100, samples_every=10_000, samples=64, checkpoint_every=5000),
)
