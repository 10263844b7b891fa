"""The default: scikit-learn's 1,797 real 8x8 digits, class-conditional, on a CPU.

Command: python train.py --config configs/digits.py
Hardware, time: 2 CPU cores, two and a half minutes.
Result (benchmarks/digits_quality.py): 99.9 % of samples are of the class asked for; Frechet distance of raw pixels
to the data 22.1, where random halves of the data are 18.2 apart.
"""

from jaxdiff.config import Config, Data, Diffusion, Log, Optim, Sample, Train, UNet

config = Config(
    data=Data(name="digits"),
    diffusion=Diffusion(schedule="cosine", kind="v"),
    model=UNet(
        channels=32, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), groups=8, resample_in_block=False
    ),
    optim=Optim(learning_rate=3e-3, warmup=100, decay="cosine"),
    train=Train(steps=600, batch_size=128, ema_decay=0.99),
    sample=Sample(sampler="ddim", steps=50, guidance=1.5),
    log=Log(every=25, samples_every=300, samples=100, checkpoint_every=100),
)
