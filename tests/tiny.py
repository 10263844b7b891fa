"""The smallest run that goes through everything: real digits, a U-Net of one level, six steps."""

CONFIG = """
from jaxdiff.config import Config, Log, Model, Optim, Sample, Train

config = Config(
    model=Model(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4, dropout=0.1),
    optim=Optim(learning_rate=1e-3, warmup=2),
    train=Train(steps=6, batch_size=16, ema_decay=0.9),
    sample=Sample(steps=3, guidance=1.5),
    log=Log(every=1, samples=10, samples_every=3, checkpoint_every=2, keep=2),
)
"""
