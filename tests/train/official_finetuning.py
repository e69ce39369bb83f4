"""What the official finetuning code makes of given weights, gradients and batches, for test_official_finetuning.py.

    PYTHONPATH=CLONE:FOLDER python tests/dropin/run_official.py models_vit tests/train/official_finetuning.py OUT.json

CLONE is facebookresearch/mae, FOLDER holds timm 0.3.2 and torchvision. The functions below, but for `main`, are what
both sides are given.
"""

import json
import sys
from functools import partial
from types import SimpleNamespace

import torch

SIZES = dict(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, mlp_ratio=4, qkv_bias=True, num_classes=5)
RECIPE = dict(
    lr=4e-3, min_lr=1e-4, warmup_epochs=1, epochs=2, accum_iter=1, weight_decay=0.05, layer_decay=0.75, clip_grad=1.0,
    smoothing=0.1,
)  # fmt: skip
LARS = dict(lr=0.3, weight_decay=0.1)
BATCHES, NORM = 10, partial(torch.nn.LayerNorm, eps=1e-6)


def normal(seed: int, shape) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(model) -> None:
    """The same weights for every model of these names."""
    with torch.no_grad():
        for seed, (name, p) in enumerate(sorted(model.named_parameters())):
            p.copy_(0.2 * normal(seed, p.shape) + (name.endswith(("norm.weight", "norm1.weight", "norm2.weight"))))


def batches(epoch: int) -> list:
    """Images (8, 3, 16, 16) of classes that can be told by their means, and labels."""
    found = []
    for seed in range(1000 + BATCHES * epoch, 1000 + BATCHES * (epoch + 1)):
        labels = torch.randint(0, 5, (8,), generator=torch.Generator().manual_seed(seed))
        found.append((normal(seed, (8, 3, 16, 16)) + labels[:, None, None, None] / 2, labels))
    return found


def lars_parameters() -> list:
    """A matrix, a vector, a matrix of zeros, and one whose gradient is zero."""
    shapes = (5, 7), (5,), (3, 4), (4, 3)
    return [torch.nn.Parameter(normal(seed, shape) * (seed != 2)) for seed, shape in enumerate(shapes)]


def give_gradients(parameters, step: int) -> None:
    for number, p in enumerate(parameters):
        p.grad = normal(100 * step + number, p.shape) * (number != 3)


def digest(p) -> list[float]:
    """The first numbers of a tensor, and its norm."""
    return [*p.detach().flatten()[:4].tolist(), p.detach().double().norm().item()]


def main(path: str) -> None:
    import engine_finetune
    import models_vit
    from timm.loss import LabelSmoothingCrossEntropy
    from util.lars import LARS as OfficialLARS
    from util.lr_decay import param_groups_lrd
    from util.misc import NativeScalerWithGradNormCount

    def make():
        model = models_vit.VisionTransformer(global_pool=True, norm_layer=NORM, **SIZES)
        fill(model)
        decays = dict(no_weight_decay_list=model.no_weight_decay(), layer_decay=RECIPE["layer_decay"])
        groups = param_groups_lrd(model, RECIPE["weight_decay"], **decays)
        return model, groups, torch.optim.AdamW(groups, lr=RECIPE["lr"])

    parameters = lars_parameters()
    optimizer = OfficialLARS(parameters, **LARS)
    for step in range(3):
        give_gradients(parameters, step)
        optimizer.step()
    numbers = {"lars": [p.tolist() for p in parameters]}

    model, groups, optimizer = make()
    names = {p: name for name, p in model.named_parameters()}
    numbers["groups"] = [[g["lr_scale"], g["weight_decay"], [names[p] for p in g["params"]]] for g in groups]
    named = dict(sorted(model.named_parameters()))
    for step in range(3):
        give_gradients(named.values(), step)
        for group in optimizer.param_groups:
            group["lr"] = RECIPE["lr"] * group["lr_scale"]
        optimizer.step()
    numbers["layer_decay"] = {name: digest(p) for name, p in named.items()}

    model, _, optimizer = make()
    losses, lrs = [], []
    writer = SimpleNamespace(log_dir="", add_scalar=lambda tag, x, at: {"loss": losses, "lr": lrs}[tag].append(x))
    criterion = LabelSmoothingCrossEntropy(smoothing=RECIPE["smoothing"])
    for epoch in range(RECIPE["epochs"]):
        engine_finetune.train_one_epoch(
            model, criterion, batches(epoch), optimizer, torch.device("cpu"), epoch, NativeScalerWithGradNormCount(),
            RECIPE["clip_grad"], None, log_writer=writer, args=SimpleNamespace(**RECIPE),
        )  # fmt: skip
    numbers["finetune"] = {"losses": losses, "lrs": lrs}
    numbers["made_by"] = "facebookresearch/mae, timm 0.3.2, by tests/train/official_finetuning.py"
    with open(path, "w") as file:
        json.dump(numbers, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])
