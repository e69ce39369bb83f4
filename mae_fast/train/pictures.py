"""A few reconstructions of a run under way, for a person to see what the loss does not tell.

output_dir/reconstructions/: original.png and masked.png, and epoch-N.png after some epochs, each a strip of the same
pictures with the same patches masked. The report page (`mae-fast report`) shows them one below the other.
"""

import logging
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae_fast.config import DTYPES
from mae_fast.data import make_eval_loader
from mae_fast.data.sources import Source
from mae_fast.files.atomic import write_atomic
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.train.drawable import reconstruct, stretched
from mae_fast.train.parallel import is_sharded
from mae_fast.train.run import Run

logger = logging.getLogger(__name__)
PICTURES = 4
TIMES = 10  # a run, the first and the last epoch among them
SHARE = 0.01  # of the run's time, at most; only the first and the last pictures come whatever they take
GAP = 4  # pixels between two pictures


class KeptPictures:
    """A callback of a run (mae_fast.train.run), with the source of its images.

    Rank 0 alone works; weights that are shared out over ranks have no pictures. No random number is drawn, and whatever
    goes wrong is said and ends no run.
    """

    def __init__(self, source: Source):
        self.source = source
        self.began, self.spent = time.monotonic(), 0.0
        self.imgs: Tensor | None = None

    def __call__(self, run: Run, epoch: int) -> dict[str, float]:
        wanted = run.report and run.report.folder and self.is_time(epoch, run.recipe.schedule.epochs)
        if wanted and not is_sharded(run.step.module):
            before = time.monotonic()
            self.keep(run, epoch)
            self.spent += time.monotonic() - before
        return {}

    def is_time(self, epoch: int, epochs: int) -> bool:
        in_time = self.spent < SHARE * (time.monotonic() - self.began)
        return epoch in (0, epochs - 1) or (epoch in chosen(epochs) and in_time)

    def keep(self, run: Run, epoch: int) -> None:
        folder = run.report.folder / "reconstructions"
        try:
            if self.imgs is None:
                self.imgs = fixed_pictures(self.source, run)
            original, masked, predicted = predict(run, self.imgs)
            if epoch == 0 or not (folder / "masked.png").exists():
                write_strip(folder / "original.png", original)
                write_strip(folder / "masked.png", masked)
            write_strip(folder / f"epoch-{epoch}.png", predicted)
        except Exception as error:  # of a disk, an image or a device: no picture is worth a run
            reason = f"no reconstructions after epoch {epoch + 1}: {error}"
            run.report.note("fault", text=reason)
            logger.warning("%s: %s. The run goes on", folder, reason)
        else:
            run.report.note("pictures", epoch=epoch)


def chosen(epochs: int) -> set[int]:
    """At which epochs, from 0: close to each other at first, when pictures change fast."""
    return {round((epochs - 1) * (i / (TIMES - 1)) ** 2) for i in range(TIMES)}


def fixed_pictures(source: Source, run: Run) -> Tensor:
    """The same few images at every call, evenly spaced in the source and whole: as a loader gives them."""
    count, data = min(PICTURES, len(source)), run.recipe.data
    loader = make_eval_loader(
        source, 1, run.model.patch_embed.img_size, num_workers=0, device=run.resolved.device, backend="pillow",
        on_bad_image="convert" if data.on_bad_image == "convert" else "skip", timeout=data.loader_timeout,
        pixels=run.model.pixels,
    )  # fmt: skip
    first = (next(loader.epoch(0, i * len(source) // count)) for i in range(count))  # a batch is one image
    return torch.cat([imgs for imgs, _ in first])


def predict(run: Run, imgs: Tensor) -> list[Tensor]:
    """Images -> what they are, what the encoder sees and what the model makes of it, each (B, H, W, 1 or 3) in 0..1.

    Other pictures than photographs are stretched over their values, see `mae_fast.train.drawable`.
    """
    model: MaskedAutoencoderViT = run.model
    noise = torch.rand(len(imgs), model.patch_embed.num_patches, generator=torch.Generator().manual_seed(0))
    training = model.training
    model.eval()
    try:
        with torch.autocast(imgs.device.type, DTYPES[run.resolved.dtype], enabled=run.resolved.dtype != "fp32"):
            result = reconstruct(model, imgs, run.recipe.mask_ratio, noise.to(imgs.device))
    finally:
        model.train(training)
    drawn = stretched(result, percentiles=model.pixels.mode is None)
    return [drawn.original, drawn.masked, drawn.pasted]


def write_strip(path: Path, pictures: Tensor) -> None:
    """(B, H, W, 1 or 3) in 0..1 -> a PNG with the pictures side by side."""
    pixels = (pictures.expand(-1, -1, -1, 3) * 255).round().to(torch.uint8).numpy()
    padded = np.pad(pixels, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)
    strip = np.concatenate(list(padded), axis=1)[:, :-GAP]
    write_atomic(path, lambda file: Image.fromarray(strip).save(file, "PNG"))
