"""Small versions of the seven architectures, with trained-looking batch norms."""

import torch
from torch import Tensor, nn

from quantskew._torchvision import torchvision

# isort: split
import timm  # it imports torchvision, which must have loaded by then

SMALL = {
    "resnet18": {"channels": (8, 16, 16, 32)},
    "vgg": {},
    "vgg_bn": {},
    "mobilenetv2_035": {},
    "efficientnet_b0": {},
    "vit_tiny_patch16_224": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
    },
    "squeezenet1_1": {},
}


def network(name: str, channels: int = 3) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name.startswith("squeezenet"):
        made = torchvision.models.get_model(name, num_classes=5)
    elif name.startswith("vgg"):
        made = vgg(channels, norm=name.endswith("bn"))
    else:
        made = timm.create_model(name, num_classes=5, in_chans=channels, **SMALL[name])
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made.eval(), torch.randn(4, channels, 32, 32)


def vgg(channels: int, *, norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for width in (8, 16, 16):
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width)] if norm else []
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 5))
