"""ADM on ImageNet 64x64, conditional: 296M parameters (Dhariwal & Nichol 2021, arXiv 2105.05233, tables 4 and 11).

python train.py --config configs/imagenet64_adm.py --model.dtype bfloat16        # data: tfds:imagenet_resized/64x64
hardware, time, FID: not run yet
"""

from jaxdiff.config import Config, Data, Diffusion, Log, Optim, Sample, Train, UNet

config = Config(
    data=Data(name="tfds:imagenet_resized/64x64", flip=True),
    diffusion=Diffusion(schedule="cosine", learned_variance=True),
    model=UNet(
        channels=192,
        multipliers=(1, 2, 3, 4),
        blocks=3,
        attention_resolutions=(32, 16, 8),
        head_channels=64,
        dropout=0.1,
    ),
    optim=Optim(name="adamw", learning_rate=3e-4, warmup=0, clip=0.0),
    train=Train(steps=540_000, batch_size=2048, ema_decay=0.9999),
    sample=Sample(sampler="ddpm", steps=250, variance="learned_range"),
    log=Log(samples_every=10_000, checkpoint_every=10_000),
)
