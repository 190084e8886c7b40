"""Tiny networks with the structures that pruning gets wrong most often."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """x + f(x) between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y: Tensor = self.head(F.relu(x + self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return y


class PreActivation(nn.Module):
    """Norm and activation before the convolution, so the residual stream itself is never normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv1 = nn.Conv2d(6, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(F.silu(self.bn2(self.conv1(F.silu(self.bn1(x))))))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


class DenseConcat(nn.Module):
    """Every layer reads all that was made before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, 5, 1)
        self.c = nn.Conv2d(9, 6, 1)
        self.head = nn.Conv2d(15, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        c = F.relu(self.c(torch.cat([a, b], 1)))
        y: Tensor = self.head(torch.cat([a, b, c], dim=-3))
        return y


class ConcatWithInput(nn.Module):
    """A part of what is concatenated is the input, which cannot shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.cat([x, torch.tanh(self.a(x))], 1))
        return y


class SplitSum(nn.Module):
    """Two halves are read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 8)
        self.left = nn.Linear(4, 3)
        self.right = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.fc(x).relu().chunk(2, dim=1)
        y: Tensor = self.left(left) + self.right(right)
        return y


class GatedLinear(nn.Module):
    """One half of a layer gates the other."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 12)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = torch.split(self.fc(x), 6, dim=-1)
        y: Tensor = self.out(value * torch.sigmoid(gate))
        return y


class SqueezeExcite(nn.Module):
    """A gate of one number for each channel, computed from the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.down = nn.Linear(6, 4)
        self.up = nn.Linear(4, 6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        y: Tensor = self.head(x * gate[:, :, None, None])
        return y


class SpatialGate(nn.Module):
    """A gate of one channel is broadcast over all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.gate = nn.Conv2d(6, 1, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y: Tensor = self.head(x * torch.sigmoid(self.gate(x)))
        return y


class ChannelShuffle(nn.Module):
    """Channels are dealt out between two groups by view, transpose and reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.stem(x))))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        y: Tensor = self.head(x)
        return y


class Depthwise(nn.Module):
    """An inverted residual: expand, depthwise, project."""

    def __init__(self, multiplier: int = 1) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 6, 1)
        self.depthwise = nn.Conv2d(6, 6 * multiplier, 3, padding=1, groups=6)
        self.bn = nn.BatchNorm2d(6 * multiplier)
        self.project = nn.Conv2d(6 * multiplier, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn(self.depthwise(F.hardswish(self.expand(x)))))
        y: Tensor = self.head(self.project(x))
        return y


class Grouped(nn.Module):
    """A convolution in a few wide groups, and one in many narrow ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.wide = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.narrow = nn.Conv2d(12, 12, 3, padding=1, groups=6)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.narrow(F.relu(self.wide(F.relu(self.stem(x)))))))
        return y


class Transposed(nn.Module):
    """Transposed convolutions, plain, in groups and depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(8, 12, 2, groups=2)
        self.depthwise = nn.ConvTranspose2d(12, 24, 2, groups=12)
        self.head = nn.ConvTranspose2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.up(self.stem(x)))
        y: Tensor = self.head(torch.sigmoid(self.depthwise(F.gelu(self.grouped(x)))))
        return y


class Bottleneck(nn.Module):
    """An autoencoder with flatten before and unflatten behind its latent code."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 5, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 6)
        )
        self.decoder = nn.Sequential(
            nn.Linear(6, 4 * 16),
            nn.ReLU(),
            nn.Unflatten(1, (4, 4, 4)),
            nn.ConvTranspose2d(4, 1, 2, stride=2),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.encoder(x))
        return y


class FlattenNorm(nn.Module):
    """Norms of single features behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.bn = nn.BatchNorm1d(5 * 36)
        self.ln = nn.LayerNorm(5 * 36)
        self.head = nn.Linear(5 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.ln(self.bn(self.conv(x).flatten(1))))
        return y


class UNet(nn.Module):
    """Down, up, and a skip that is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.head = nn.Conv2d(9, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        x = F.relu(self.middle(F.max_pool2d(skip, 2)))
        x = F.interpolate(F.avg_pool2d(F.relu(self.up(x)), 2), scale_factor=2.0, mode="bilinear")
        y: Tensor = self.head(torch.cat([x, skip], 1))
        return y


class SharedModule(nn.Module):
    """One layer is applied twice, and registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.block = nn.Linear(6, 6)
        self.again = self.block
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y: Tensor = self.head(F.relu(self.again(F.relu(self.block(x)))))
        return y


class TiedWeight(nn.Module):
    """One matrix embeds tokens and makes logits; another is used by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 6)
        self.up2 = nn.Linear(6, 8)
        self.up2.weight = self.up.weight
        self.logits = nn.Linear(6, 11, bias=False)
        self.logits.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.down(F.gelu(self.up(x)))
        x = x + self.down(F.gelu(self.up2(x)))
        y: Tensor = self.logits(x)
        return y


class TiedTranspose(nn.Module):
    """The decoder's weights are the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Linear(7, 6)
        self.inner = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.inner(torch.relu(self.outer(x))))
        return F.linear(torch.relu(F.linear(code, self.inner.weight.t())), self.outer.weight.t())


class FrozenStem(nn.Module):
    """The first layer is frozen and runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.stem.requires_grad_(False)
        self.hidden = nn.Linear(6, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.elu(self.stem(x))
        y: Tensor = self.head(F.elu(self.hidden(x)))
        return y


class UnusedBranch(nn.Module):
    """An auxiliary head that only the train mode runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)
        self.auxiliary = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y: Tensor = self.head(x)
        return y + self.auxiliary(x) if self.training else y


class Buffers(nn.Module):
    """Buffers, one of them not persistent, that follow the channels, and one that is indexed with."""

    mean: Tensor
    scale: Tensor
    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.register_buffer("mean", torch.linspace(-1, 1, 6))
        self.register_buffer("scale", torch.linspace(0.5, 2, 6), persistent=False)
        self.register_buffer("order", torch.tensor([2, 0, 1, 3]))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head((self.fc(x[:, self.order]) - self.mean) * self.scale)
        return y


class LayerScale(nn.Module):
    """Residual branches scaled by bare parameters of shape (C,) and (C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.branch = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.gamma = nn.Parameter(torch.rand(6, 1, 1))
        self.fc = nn.Linear(6, 4)
        self.delta = nn.Parameter(torch.rand(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.gamma * self.branch(x)
        y: Tensor = self.head(self.delta * self.fc(x.permute(0, 2, 3, 1)))
        return y


class Norms(nn.Module):
    """Every norm, with parameters and without."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.group_wide = nn.GroupNorm(2, 8)
        self.b = nn.Conv2d(8, 8, 1)
        self.group_narrow = nn.GroupNorm(4, 8)
        self.c = nn.Conv2d(8, 6, 1)
        self.each = nn.GroupNorm(6, 6)
        self.d = nn.Conv2d(6, 6, 1)
        self.instance = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
        self.e = nn.Conv2d(6, 5, 1)
        self.image = nn.LayerNorm([5, 8, 8])
        self.f = nn.Conv2d(5, 7, 1)
        self.last = nn.LayerNorm(7, elementwise_affine=False)
        self.g = nn.Linear(7, 6)
        self.plain = nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.group_wide(self.a(x)))
        x = F.relu(self.group_narrow(self.b(x)))
        x = F.relu(self.each(self.c(x)))
        x = F.relu(self.instance(self.d(x)))
        x = F.relu(self.image(self.e(x)))
        x = self.last(self.f(x).movedim(1, -1))
        y: Tensor = self.head(self.plain(self.g(x)))
        return y


class TwoInputs(nn.Module):
    """Two positional inputs and one that is given by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 6)
        self.right = nn.Linear(3, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, a: Tensor, b: Tensor, *, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = torch.tanh(self.left(a) * self.right(b)) * scale
        y: Tensor = self.head(x)
        return y if shift is None else y + shift


class Pair(NamedTuple):
    """What `TwoOutputs` returns."""

    code: Tensor
    score: Tensor


class TwoOutputs(nn.Module):
    """The hidden code is an output too, so it cannot shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.code = nn.Linear(6, 5)
        self.score = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Pair:
        code = self.code(F.relu(self.stem(x)))
        return Pair(code, self.score(code))


class DictOutput(nn.Module):
    """A dict of outputs, nested, with a constant in it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.a = nn.Linear(6, 2)
        self.b = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = F.relu(self.stem(x))
        return {"a": self.a(x), "more": [self.b(x), 1.5]}


class InPlace(nn.Module):
    """Operations in place, also through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu_()
        y = self.b(x)
        y += x
        y.mul_(0.5)[1:].zero_()
        z: Tensor = self.head(y)
        return z


class Sequence(nn.Module):
    """Tokens with a class token and a position embedding; the middle token is read."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv1d(2, 6, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.position = nn.Parameter(torch.randn(1, 5, 6))
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 9)
        self.down = nn.Linear(9, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.position
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        y: Tensor = self.head(x[:, 2] + x.roll(1, dims=1)[:, 0])
        return y


class TokenMixer(nn.Module):
    """One layer mixes tokens, the next channels; both axes can shrink on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 6, 1)
        self.mix = nn.Linear(5, 7)
        self.unmix = nn.Linear(7, 4)
        self.head = nn.Conv1d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.unmix(F.gelu(self.mix(self.stem(x)))))
        return y


class Volume(nn.Module):
    """Three spatial axes, circular padding, adaptive pooling, PReLU by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 5, 3, padding=1, padding_mode="circular")
        self.act = nn.PReLU(5)
        self.up = nn.ConvTranspose3d(5, 4, 2)
        self.pool = nn.AdaptiveAvgPool3d((2, 1, 1))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.flatten(self.pool(self.up(self.act(self.conv(x)))), 1))
        return y


class ZeroPadShortcut(nn.Module):
    """A shortcut whose missing channels are zeros (option A of the residual network paper)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, 8, 3, padding=1, stride=2)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        y: Tensor = self.head(F.relu(self.conv(x) + shortcut))
        return y


class PixelShuffle(nn.Module):
    """Sub-pixel up-sampling: four channels become one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.head = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.shuffle(self.conv(x))))
        return y


class BareMatrix(nn.Module):
    """Matrices that are no layers: x @ W, and a stack of two results."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(4, 6))
        self.w2 = nn.Parameter(torch.randn(6, 3))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x @ self.w1) @ self.w2
        y: Tensor = self.head(torch.stack([x, x.sin()], 1).mean(1))
        return y


class BakedView(nn.Module):
    """A width is written as a number into the forward pass, so it cannot shrink; another is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.fc = nn.Linear(6, 16)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(F.relu(self.stem(x)))
        y: Tensor = self.head(x.view(x.shape[0], 8, -1).sum(2))
        return y


class CountedSlices(nn.Module):
    """Slices at numbers that are written into the forward pass: what stands before them stays."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 10)
        self.few = nn.Linear(3, 2)
        self.rest = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        y: Tensor = self.few(x[:, :3]) + self.rest(torch.cat([x[:, 3:]], 1))
        return y
