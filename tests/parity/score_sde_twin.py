"""DDPM++ and NCSN++ in torch, from the paper's appendix H and StyleGAN2's description of its resampling, with the names
and the order of parameters that checkpoints of score_sde have."""

import numpy as np
from trajectories import torch

SETTINGS = {
    "nf": 16, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "size": 8, "embedding": "positional", "fir": False,
    "block": "biggan", "progressive_input": "none", "progressive": "none", "skip_rescale": True,
}  # fmt: skip
nn = torch.nn
silu = nn.functional.silu


def filtered(x, *, up=1, down=1, pad):
    """The filter [1, 3, 3, 1] in two dimensions, of mean 1 whatever `up`, by a convolution of each channel."""
    k = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    kernel = torch.outer(k, k) / k.sum() ** 2 * up**2
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, height * up, width * up)
    spread[..., ::up, ::up] = x
    spread = nn.functional.pad(spread, (pad[0], pad[1], pad[0], pad[1]))
    out = nn.functional.conv2d(spread.reshape(-1, 1, *spread.shape[2:]), kernel[None, None])
    return out.reshape(batch, channels, *out.shape[2:])[..., ::down, ::down]


def resampled(x, way, fir):
    if way is None:
        return x
    if fir:
        return filtered(x, up=2, pad=(2, 1)) if way == "up" else filtered(x, down=2, pad=(1, 1))
    if way == "up":
        return nn.functional.interpolate(x, scale_factor=2, mode="nearest")
    return nn.functional.avg_pool2d(x, 2)


def norm(channels):
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


class Dense(nn.Module):
    """Of channels; the weight is [in, out]."""

    def __init__(self, into, out):
        super().__init__()
        self.W = nn.Parameter(torch.zeros(into, out))
        self.b = nn.Parameter(torch.zeros(out))

    def forward(self, x):
        return torch.einsum("bihw,io->bohw", x, self.W) + self.b[:, None, None]


class Fourier(nn.Module):
    def __init__(self, nf):
        super().__init__()
        self.W = nn.Parameter(16 * torch.randn(nf), requires_grad=False)

    def forward(self, c):
        angles = c[:, None] * self.W[None] * 2 * np.pi
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class Block(nn.Module):
    def __init__(self, s, into, out, way=None):
        super().__init__()
        self.s, self.way = s, way
        self.GroupNorm_0 = norm(into)
        self.Conv_0 = nn.Conv2d(into, out, 3, padding=1)
        self.Dense_0 = nn.Linear(4 * s["nf"], out)
        self.GroupNorm_1 = norm(out)
        self.Conv_1 = nn.Conv2d(out, out, 3, padding=1)
        if s["block"] == "biggan" and (way or into != out):
            self.Conv_2 = nn.Conv2d(into, out, 1)
        elif into != out:
            self.NIN_0 = Dense(into, out)

    def forward(self, x, emb):
        h = self.Conv_0(resampled(silu(self.GroupNorm_0(x)), self.way, self.s["fir"]))
        h = h + self.Dense_0(silu(emb))[:, :, None, None]
        h = self.Conv_1(silu(self.GroupNorm_1(h)))
        x = resampled(x, self.way, self.s["fir"])
        skip = getattr(self, "Conv_2", None) or getattr(self, "NIN_0", None) or nn.Identity()
        return rescaled(self.s, skip(x) + h)


class Attention(nn.Module):
    def __init__(self, s, channels):
        super().__init__()
        self.s = s
        self.GroupNorm_0 = norm(channels)
        for i in range(4):
            setattr(self, f"NIN_{i}", Dense(channels, channels))

    def forward(self, x):
        h = self.GroupNorm_0(x)
        q, k, v = (getattr(self, f"NIN_{i}")(h).flatten(2) for i in range(3))
        weights = torch.softmax(q.mT @ k / q.shape[1] ** 0.5, dim=2)
        return rescaled(self.s, x + self.NIN_3((v @ weights.mT).reshape(x.shape)))


class Resample(nn.Module):
    """A convolution that resamples; without `out` no convolution."""

    def __init__(self, s, into, out, way):
        super().__init__()
        self.way, self.fir, self.out = way, s["fir"], out
        if out:
            stride = 2 if way == "down" else 1
            conv = nn.Conv2d(into, out, 3, stride=stride, padding=1 if way == "up" and not self.fir else 0)
            setattr(self, "Conv2d_0" if self.fir else "Conv_0", conv)

    def forward(self, x):
        if not self.out:
            return resampled(x, self.way, self.fir)
        if not self.fir:
            x = resampled(x, "up", False) if self.way == "up" else nn.functional.pad(x, (0, 1, 0, 1))
            return self.Conv_0(x)
        if self.way == "down":
            return self.Conv2d_0(filtered(x, pad=(2, 2)))
        # First the convolution of the points with zeros between them, then the filter.
        weight, bias = self.Conv2d_0.weight.flip(2, 3).transpose(0, 1), self.Conv2d_0.bias
        h = nn.functional.conv_transpose2d(x, weight, stride=2)
        return 4 * filtered(h, pad=(1, 1)) + bias[:, None, None]


class Combine(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.Conv_0 = nn.Conv2d(into, out, 1)

    def forward(self, x, h):
        return self.Conv_0(x) + h


def rescaled(s, x):
    return x / 2**0.5 if s["skip_rescale"] else x


def positional(c, channels):
    w = 10_000.0 ** (-torch.arange(channels // 2, dtype=c.dtype) / (channels // 2 - 1))
    angles = c[:, None] * w[None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class Twin(nn.Module):
    """`(x, c) -> h`, c what the embedding gets, h before it is divided by anything. A first call makes the modules."""

    def __init__(self, **settings):
        super().__init__()
        self.s = SETTINGS | settings
        self.register_buffer("sigmas", torch.tensor(np.exp(np.linspace(np.log(50.0), np.log(0.01), 1000))))
        self.all_modules = nn.ModuleList()
        self.made = False
        size = self.s["size"]
        self(torch.zeros(1, 3, size, size), torch.zeros(1))
        self.made = True
        torch.manual_seed(0)
        for parameter in self.parameters():
            if parameter.requires_grad:
                fan = parameter[0].numel() if parameter.ndim > 1 else 4
                parameter.data = torch.randn_like(parameter) / fan**0.5 + (parameter.ndim == 1) * 0.5

    def forward(self, x, c, more=0):
        """`more` is added to the embedding of c, such as one of labels."""
        s, at = self.s, iter(list(self.all_modules))
        nf, last = s["nf"], len(s["multipliers"]) - 1

        def take(make, *args):
            if not self.made:
                self.all_modules.append(make(*args))
                return self.all_modules[-1]
            return next(at)

        def block(h, channels, way=None):
            return take(Block, s, h.shape[1], channels, way)(h, emb)

        def attention(h):
            return take(Attention, s, h.shape[1])(h)

        def resample(h, channels, way):
            return take(Resample, s, h.shape[1], channels, way)(h)

        def conv(h, channels):
            return take(nn.Conv2d, h.shape[1], channels, 3, 1, 1)(h)

        emb = take(Fourier, nf)(c) if s["embedding"] == "fourier" else positional(c, nf)
        emb = take(nn.Linear, emb.shape[1], 4 * nf)(emb + more)
        emb = take(nn.Linear, 4 * nf, 4 * nf)(silu(emb))
        h, image = conv(x, nf), x
        skips = [h]
        for level, multiplier in enumerate(s["multipliers"]):
            for _ in range(s["blocks"]):
                h = block(h, multiplier * nf)
                h = attention(h) if h.shape[-1] in s["attention"] else h
                skips.append(h)
            if level < last:
                channels = h.shape[1]
                h = block(h, channels, "down") if s["block"] == "biggan" else resample(h, channels, "down")
                if s["progressive_input"] == "input_skip":
                    image = resample(image, None, "down")
                    h = take(Combine, image.shape[1], channels)(image, h)
                elif s["progressive_input"] == "residual":
                    h = image = rescaled(s, resample(image, channels, "down") + h)
                skips.append(h)
        h = block(h, h.shape[1])
        h = block(attention(h), h.shape[1])
        for level, multiplier in reversed(list(enumerate(s["multipliers"]))):
            channels = multiplier * nf
            for _ in range(s["blocks"] + 1):
                h = block(torch.cat([h, skips.pop()], dim=1), channels)
            h = attention(h) if h.shape[-1] in s["attention"] else h
            if s["progressive"] == "output_skip":
                below = resample(image, None, "up") if level < last else 0
                image = below + conv(silu(take(norm, channels)(h)), x.shape[1])
            elif s["progressive"] == "residual" and level == last:
                image = conv(silu(take(norm, channels)(h)), channels)
            elif s["progressive"] == "residual":
                h = image = rescaled(s, resample(image, channels, "up") + h)
            if level > 0:
                h = block(h, channels, "up") if s["block"] == "biggan" else resample(h, channels, "up")
        if s["progressive"] == "output_skip":
            return image
        return conv(silu(take(norm, h.shape[1])(h)), x.shape[1])
