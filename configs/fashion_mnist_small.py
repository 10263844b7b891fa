"""Fashion-MNIST for two CPU cores, 28x28 grey, unconditional: what the ledger and its side by side train.

Command: pip install -e '.[tfds]' && python train.py --config configs/fashion_mnist_small.py
Or with the IDX files: --data.name train-images-idx3-ubyte.gz. Figures: benchmarks/ledger.
"""

from jaxdiff.config import Config, Data, Diffusion, Log, Optim, Sample, Train, UNet

config = Config(
    data=Data(name="tfds:fashion_mnist", labels=False),
    diffusion=Diffusion(schedule="cosine", kind="v"),
    model=UNet(
        channels=16, multipliers=(1, 2, 2), blocks=1, attention_resolutions=(7,), groups=8, resample_in_block=False
    ),
    optim=Optim(learning_rate=1e-3, warmup=100),
    train=Train(steps=2000, batch_size=64, ema_decay=0.995),
    sample=Sample(sampler="ddim", steps=50),
    log=Log(every=50, samples_every=1000, samples=64, checkpoint_every=500),
)
