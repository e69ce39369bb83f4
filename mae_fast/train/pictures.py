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
from mae_fast.train.parallel import is_sharded
from mae_fast.train.run import Run

logger = logging.getLogger(__name__)
PICTURES = 4
TIMES = 10  # a run, the first and the last epoch among them
SHARE = 0.01  # of the run's time, at most; only the first and the last pictures come whatever they take
GREY, GAP = 0.5, 4  # a removed patch; pixels between two pictures
STRETCH = (0.02, 0.98)  # of a band's values, drawn as black and white


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


@torch.no_grad()
def predict(run: Run, imgs: Tensor) -> list[Tensor]:
    """Images -> what they are, what the encoder sees and what the model makes of it, each (B, 3, H, W) in 0..1.

    Of two bands the first is drawn, of more than three the first three; those of other pictures than photographs are
    stretched from the 2nd to the 98th percentile of each picture. With norm_pix_loss the predictions are brought back
    with the mean and variance of the true patch.
    """
    model: MaskedAutoencoderViT = run.model
    noise = torch.rand(len(imgs), model.patch_embed.num_patches, generator=torch.Generator().manual_seed(0))
    training = model.training
    model.eval()
    try:
        with torch.autocast(imgs.device.type, DTYPES[run.resolved.dtype], enabled=run.resolved.dtype != "fp32"):
            _, pred, mask = model(imgs, run.recipe.mask_ratio, noise.to(imgs.device))
    finally:
        model.train(training)
    target, pred, removed = model.patchify(imgs), pred.float(), mask[..., None] > 0
    if model.norm_pix_loss:
        pred = pred * (target.var(-1, keepdim=True) + 1e-6).sqrt() + target.mean(-1, keepdim=True)
    mean, std = (torch.tensor(v, device=imgs.device).view(1, -1, 1, 1) for v in (model.mean, model.std))
    whole, pasted = (model.unpatchify(x) * std + mean for x in (target, torch.where(removed, pred, target)))
    hidden = model.unpatchify(removed.expand_as(target).float())
    whole, pasted, hidden = ((x[:, :3] if model.in_chans > 2 else x[:, :1]) for x in (whole, pasted, hidden))
    if model.in_chans != 3:
        share = torch.tensor(STRETCH, device=imgs.device)
        low, high = whole.flatten(2).quantile(share, dim=2)[..., None, None]
        whole, pasted = ((x - low) / (high - low).clamp_min(1e-6) for x in (whole, pasted))
    whole, pasted = whole.clamp(0, 1), pasted.clamp(0, 1)
    return [x.expand(-1, 3, -1, -1) for x in (whole, whole * (1 - hidden) + GREY * hidden, pasted)]


def write_strip(path: Path, pictures: Tensor) -> None:
    """(B, 3, H, W) in 0..1 -> a PNG with the pictures side by side."""
    pixels = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
    padded = np.pad(pixels, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)
    strip = np.concatenate(list(padded), axis=1)[:, :-GAP]
    write_atomic(path, lambda file: Image.fromarray(strip).save(file, "PNG"))
