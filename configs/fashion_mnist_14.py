"""Fashion-MNIST in 14x14 grey for two CPU cores, unconditional: the first stage of a cascade, whose second is
configs/fashion_mnist_super_resolution.py.

Command: pip install -e '.[tfds]' && python train.py --config configs/fashion_mnist_14.py
Or with the IDX files: --data.name train-images-idx3-ubyte.gz
Both: python sample.py --run runs/fashion_mnist_14 --cascade runs/fashion_mnist_super_resolution --num 64
--cascade-levels 0.1 --out cascade.png
Hardware, time: 2 CPU cores that many others shared, 22 minutes; 0.35 s a step at best.
"""

from jaxdiff.config import Config, Data, Diffusion, Log, Optim, Sample, Train, UNet

config = Config(
    data=Data(name="tfds:fashion_mnist", size=14, labels=False),
    diffusion=Diffusion(schedule="cosine", kind="v"),
    model=UNet(
        channels=32, multipliers=(1, 2), blocks=1, attention_resolutions=(7,), groups=8, resample_in_block=False
    ),
    optim=Optim(learning_rate=1e-3, warmup=100),
    train=Train(steps=2000, batch_size=64, ema_decay=0.995),
    sample=Sample(sampler="ddim", steps=50),
    log=Log(every=50, samples_every=1000, samples=64, checkpoint_every=500),
)
