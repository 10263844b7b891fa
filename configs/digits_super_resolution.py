"""The digits from 4x4 to 8x8, class-conditional: super-resolution on a CPU.

Command: python train.py --config configs/digits_super_resolution.py
Sample: jaxdiff super-resolution --run runs/digits_super_resolution --images digits --degrade --num 16 --out large.png
Hardware, time: 2 CPU cores that many others shared, four minutes.
Result: PSNR of the 200 digits held out 17.5 dB by one draw, 19.9 by the mean of eight (--draws 8 --mean);
bicubic interpolation 13.5.
"""

from jaxdiff.config import Condition, Config, Data, Diffusion, Log, Optim, Sample, Train, UNet

config = Config(
    data=Data(name="digits", holdout=200),
    diffusion=Diffusion(schedule="cosine", kind="v"),
    model=UNet(channels=16, multipliers=(1, 2), blocks=1, attention_resolutions=(), groups=8, resample_in_block=False),
    condition=Condition(factor=2),
    optim=Optim(learning_rate=3e-3, warmup=100, decay="cosine"),
    train=Train(steps=600, batch_size=128, ema_decay=0.99),
    sample=Sample(sampler="ddim", steps=20),
    log=Log(every=25, samples_every=300, samples=30, checkpoint_every=100),
)
