"""Fashion-MNIST, 28x28 grey, class-conditional.

Command: pip install -e '.[tfds]' && python train.py --config configs/fashion_mnist.py
Hardware, time, result: not measured yet.
"""

from jaxdiff.config import Config, Data, Diffusion, Log, Optim, Sample, Train, UNet

config = Config(
    data=Data(name="tfds:fashion_mnist", flip=True),
    diffusion=Diffusion(schedule="cosine", kind="v"),
    model=UNet(channels=64, multipliers=(1, 2, 2), blocks=2, attention_resolutions=(7,), heads=4, dropout=0.1),
    optim=Optim(learning_rate=3e-4, warmup=500, decay="cosine"),
    train=Train(steps=40_000, batch_size=256, ema_decay=0.999),
    sample=Sample(sampler="ddim", steps=50, guidance=1.5),
    log=Log(every=100, samples_every=2000, samples=100, checkpoint_every=2000),
)
