"""Fashion-MNIST from 14x14 to 28x28 grey for two CPU cores, unconditional on labels: super-resolution, and the second
stage of a cascade from configs/fashion_mnist_14.py (Ho et al. 2021, arXiv 2106.15282).

Command: pip install -e '.[tfds]' && python train.py --config configs/fashion_mnist_super_resolution.py
Or with the IDX files: --data.name train-images-idx3-ubyte.gz
Sample: jaxdiff super-resolution --run runs/fashion_mnist_super_resolution --images t10k-images-idx3-ubyte.gz
--degrade --num 16 --out enlarged.png
Hardware, time: 2 CPU cores that many others shared, 65 minutes; 0.67 s a step at best.
Result (benchmarks/super_resolution.py, 500 test images): PSNR 21.7 dB by one draw, 24.5 by the mean of eight; bicubic
interpolation 19.2.
"""

from jaxdiff.config import Condition, Config, Data, Diffusion, Log, Optim, Sample, Train, UNet

config = Config(
    data=Data(name="tfds:fashion_mnist", labels=False),
    diffusion=Diffusion(schedule="cosine", kind="v"),
    model=UNet(
        channels=16, multipliers=(1, 2, 2), blocks=1, attention_resolutions=(7,), groups=8, resample_in_block=False
    ),
    condition=Condition(factor=2, reduction="lanczos", augmentation=0.5),
    optim=Optim(learning_rate=1e-3, warmup=100),
    train=Train(steps=2000, batch_size=64, ema_decay=0.995),
    sample=Sample(sampler="ddim", steps=50),
    log=Log(every=50, samples_every=1000, samples=27, checkpoint_every=500),
)
