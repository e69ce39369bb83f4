"""The plain loader: Pillow in torch DataLoader workers. The oracle of the DALI pipeline, and its stand-in.

Never shares anything with dali_engine.py but the plan, so that agreement between the two means something.
"""

import errno
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mae_fast.data.arrays import render_arrays
from mae_fast.data.augment import apply_colour
from mae_fast.data.plan import Plan, Planner
from mae_fast.data.sources.image_file import BadImageError
from mae_fast.data.timm_parts import rand_augment


def render(plan: Plan, planner: Planner, size: tuple[int, int], policy=None) -> Tensor | None:
    """uint8 (B, H, W, C); None where a picture of the plan proves bad, which the planner then knows.

    policy: the RandAugment of the planner's augmentation.
    """
    images = np.empty((len(plan.indices), *size, planner.pixels.channels), np.uint8)
    for slot, index in enumerate(plan.indices):
        image = planner.decode(int(index))
        if image is None:
            return None
        top, left, height, width = plan.windows[slot].tolist()
        # crop first: resize(box=...) would let pixels from outside the window bleed in at its edges
        image = image.crop((left, top, left + width, top + height))
        height, width, top, left = (*size, 0, 0) if plan.fit is None else plan.fit[slot].tolist()
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + size[1], top + size[0]))
        if policy is not None:  # before the flip: it draws its signs evenly, so left and right are alike
            image = policy(image, int(plan.seeds[slot]))
        if plan.flip[slot]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(image).reshape(*size, -1)
        images[slot] = pixels if plan.colour is None else apply_colour(pixels, plan.colour[slot])
    return torch.from_numpy(images)


class _Batches(Dataset):
    """Maps (epoch, batch) to (images, indices, skipped images with reasons), or to the error that stops training."""

    def __init__(self, planner: Planner, size: tuple[int, int]):
        self.planner, self.size = planner, size
        policy = rand_augment(planner.augment, size)
        self.render = partial(render, policy=policy) if planner.pixels.mode else render_arrays

    def __getitem__(self, key: tuple[int, int]):
        try:
            pixels = None
            while pixels is None:  # once more for every picture that only its pixels gave away
                plan = self.planner.plan(*key)
                pixels = self.render(plan, self.planner, self.size)
        except BadImageError as error:
            return error  # raised by the main process, without the worker's traceback around the message
        if get_worker_info() is not None:
            try:
                pixels.share_memory_()  # here, for a queue that finds no room loses the batch, and nobody hears of it
            except (RuntimeError, OSError) as error:
                return SharedMemoryFull(pixels.nbytes, error)
        return pixels, plan.indices, [(index, self.planner.faults[index]) for index in plan.skipped]


class SharedMemoryFull(RuntimeError):
    """A worker process cannot pass its batch on."""

    def __init__(self, size: int, error: Exception | str):
        self.size, self.error = size, str(error).strip().split("\n")[0]
        super().__init__(
            f"no room for a batch of {size / 2**20:.3g} MiB in /dev/shm ({self.error}), which passes the batches of "
            "its processes on. Give it more room (docker run --shm-size=8g), or take num_workers 0"
        )

    def __reduce__(self):
        return SharedMemoryFull, (self.size, self.error)


class PillowEngine:
    """Batches made by num_workers processes (0: in this one), two in advance each, delivered to device."""

    name = "pillow"

    def __init__(self, planner: Planner, size: tuple[int, int], num_workers: int, device: torch.device):
        self.planner, self.device = planner, device
        if planner.pixels.mode is None:
            self.name = "arrays"
        self._keys: list[tuple[int, int]] = []
        self._loader = DataLoader(
            _Batches(planner, size),
            batch_size=None,
            sampler=self._keys,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its own: an epoch begun twice must not cost the masks two random numbers
        )

    def abandon(self) -> None:
        """End the worker processes, which would outlive this one: a stopped or hanging one answers to nothing else."""
        for worker in getattr(self._loader._iterator, "_workers", []):
            worker.kill()

    def batches(self, epoch: int, start: int) -> Iterator[tuple[torch.Tensor, np.ndarray, list[int]]]:
        """Yield (a batch as Pixels.batch makes it, which images of the source, skipped ones) from batch `start` on."""
        self._keys[:] = [(epoch, batch) for batch in range(start, len(self.planner.sampler))]
        try:
            results = iter(self._loader)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # for the semaphores of its queues already
                raise SharedMemoryFull(0, error) from None
            raise
        for result in results:
            if isinstance(result, Exception):
                raise result
            images, indices, skipped = result
            self.planner.faults.update(skipped)
            # indices were made a tensor, which as an index of numpy is a number where there is one
            yield images.to(self.device, non_blocking=True), np.asarray(indices), [index for index, _ in skipped]
