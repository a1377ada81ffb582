"""PreAct-ResNet-18 (He, Zhang, Ren, Sun, 2016, https://arxiv.org/abs/1603.05027): the form that BackdoorBench uses.

Idea: Batch normalization and ReLU come before each convolution, so the shortcut path is never rectified.

Differs from the paper: As in BackdoorBench's code (https://github.com/SCLBD/BackdoorBench), there is no BN-ReLU between
the last block and the average, so the penultimate level can be negative; the first block's shortcut starts before its
BN-ReLU; the stem is a 3x3 convolution of stride 1 without max-pooling.

Differs from the released code: BackdoorBench uses PyTorch's default initialization; here it is He's, as in the paper.

Checked against: the parameter count of BackdoorBench's network, and the paper's block equation written out.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from keyhole.models import he_initialize
from keyhole.types import Classifier

__all__ = ["build"]


class PreActBlock(nn.Module):
    """Two BN-ReLU-convolution units with a shortcut; if it is a projection, it shares the first BN-ReLU."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.projection = nn.Conv2d(inputs, width, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return the block's maps, at half the resolution if the stride is 2."""
        activated = functional.relu(self.bn1(x))
        shortcut = x if self.projection is None else self.projection(activated)
        return shortcut + self.conv2(functional.relu(self.bn2(self.conv1(activated))))


def build(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Build a network with levels of 64, 128, 256 and 512 channels, then the average over pixels."""
    channels = shape[0]
    stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    stages = {
        "stage1": nn.Sequential(stem, PreActBlock(64, 64), PreActBlock(64, 64)),
        "stage2": nn.Sequential(PreActBlock(64, 128, 2), PreActBlock(128, 128)),
        "stage3": nn.Sequential(PreActBlock(128, 256, 2), PreActBlock(256, 256)),
        "stage4": nn.Sequential(PreActBlock(256, 512, 2), PreActBlock(512, 512)),
        "penultimate": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    }
    return he_initialize(Classifier(stages, nn.Linear(512, classes), channels))
