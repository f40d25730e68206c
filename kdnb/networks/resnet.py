"""The CIFAR ResNets: depth 6n + 2, three stages, a 3 x 3 stem that keeps the resolution.

Source: He et al., Deep Residual Learning, 2016, section 4.2; widths, shortcuts and initialisation
as in the distillation benchmarks (methods.md 1.1).
Differs: the 2016 CIFAR nets pad shortcuts with zeros; here, as in those benchmarks, a shortcut that
changes shape is a 1 x 1 convolution with batch norm.
"""

from torch import Tensor, nn

from kdnb.networks.features import Features, Network, staged


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, added to the shortcut, then ReLU: (B, C_in, H, W) -> (B, C_out, H', W')."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x))


class ResNet(Network):
    """A CIFAR ResNet with ``depth`` = 6n + 2 layers.

    widths: channels of the stem and of the three stages. The maps are the stage outputs after their
    last ReLU, at 1, 1/2 and 1/4 of the input size; any input size of at least 4 x 4 works.
    """

    def __init__(
        self, depth: int, classes: int, *, widths: tuple[int, int, int, int] = (16, 16, 32, 64)
    ) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 with n >= 1 (8, 14, 20, ...), found {depth}.")
        super().__init__()
        stem, *stages = widths
        self.channels, self.reductions, self.classes = tuple(stages), (1, 2, 4), classes
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU()
        )
        blocks = (depth - 2) // 6
        self.stages = nn.ModuleList(
            _stage(before, after, blocks, stride)
            for before, after, stride in zip(widths[:-1], stages, (1, 2, 2), strict=True)
        )
        self.head = nn.Linear(stages[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Features:
        return staged(self.stem(images), self.stages, self.head)


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1) for _ in range(1, blocks)))
