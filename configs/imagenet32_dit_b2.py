"""DiT-B/2 on the pixels of ImageNet 32x32, conditional: 130M parameters (Peebles & Xie 2022, arXiv 2212.09748, table 1)

The paper's are latents of 256x256 pictures, of the same height and width with four channels: the same work an image.

python train.py --config configs/imagenet32_dit_b2.py --model.dtype bfloat16     # data: tfds:imagenet_resized/32x32
hardware, time, FID: not run yet
"""

from jaxdiff.config import Config, Data, Diffusion, DiT, Log, Optim, Sample, Train

config = Config(
    data=Data(name="tfds:imagenet_resized/32x32", flip=True),
    diffusion=Diffusion(schedule="linear", learned_variance=True),
    model=DiT(width=768, depth=12, heads=12, patch=2),
    optim=Optim(name="adamw", learning_rate=1e-4, warmup=0, clip=0.0),
    train=Train(steps=400_000, batch_size=256, ema_decay=0.9999),
    sample=Sample(sampler="ddpm", steps=250, variance="learned_range", guidance=1.5),
    log=Log(samples_every=10_000, checkpoint_every=10_000),
)
