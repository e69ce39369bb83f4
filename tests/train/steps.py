"""What the tests of the training step share: a small model's step, batches, and who watches it."""

import weakref

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mae_fast
from mae_fast.train.graph import StepGraphs
from mae_fast.train.optim import make_optimizer
from mae_fast.train.step import TrainingStep

SIZES = dict(
    img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=3,
    decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=2,
)  # fmt: skip


def build(checkpointing=False, opt="adamw", device="cpu", **options):
    torch.manual_seed(0)
    model = mae_fast.MaskedAutoencoderViT(**SIZES).to(device)
    model.activation_checkpointing = checkpointing
    step = TrainingStep(model, make_optimizer(model, opt, 1e-3, 0.05), **options)
    step.model = model  # for the tests
    torch.manual_seed(1)  # of the masks
    return step


def batches(number, size=6):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (number, size, 32, 32, 3), dtype=torch.uint8, generator=generator)


class Waits(TorchDispatchMode):
    """Lists the ops that run, and those that make a host wait for its device: they need a number, or a size that
    depends on one."""

    def __init__(self):
        super().__init__()
        self.ran, self.found = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran.append(str(func))
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class Classify(nn.Module):
    """A loss that knows no Masked Autoencoder, and looks at labels."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, imgs, labels):
        return nn.functional.cross_entropy(self.head(imgs.float().mean((1, 2)) / 255), labels)


class Remember:
    """In place of CudaCapture. It counts; the device would run what the function launched, and no Python."""

    def __init__(self):
        self.captured = 0

    def run(self, function):
        function()

    def capture(self, function):
        self.captured += 1
        return function


def graphed(step, capture=None):
    step.graphs = StepGraphs(weakref.proxy(step), capture or Remember())
    return step


LRS = [2.0**-power for power in (10, 11, 12, 9, 13, 10, 11, 12)]  # as exact in float32 as in float64


def taken(step, imgs):
    """The losses of updates on the same masks as any other call, and all that training goes on from."""
    torch.manual_seed(1)
    losses = [loss for batch, lr in zip(imgs, LRS, strict=False) if (loss := step(batch, lr)) is not None]
    state = step.model.state_dict(), step.optimizer.state_dict(), step.scaler.state_dict()
    return losses, *state, step.taken, torch.get_rng_state()
