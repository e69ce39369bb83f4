"""Runs the DALI pipeline over an epoch's plans: feeds it ahead, takes its batches, survives the files it dies of."""

import io
import os
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mae_fast.data.dali_pipeline import SHIPPED, Settings, dali_resize, feed, per_sample, pipeline, torch_resize
from mae_fast.data.plan import Plan, Planner
from mae_fast.data.timm_parts import rand_augment


@dataclass
class _Job:
    """A batch that DALI is working on. copies: files written for it, to be removed when it is done."""

    batch: int
    plan: Plan
    copies: list[Path]

    def close(self) -> None:
        for path in self.copies:
            path.unlink(missing_ok=True)


class DaliEngine:
    """Batches made by num_threads threads, some in advance, on device, without a copy from DALI to torch."""

    name = "dali"

    def __init__(
        self, planner: Planner, size: tuple[int, int], num_threads: int, device: torch.device,
        settings: Settings | None = None,
    ):  # fmt: skip
        self.planner, self.device, self.num_threads = planner, device, max(1, num_threads)
        self.settings = settings or SHIPPED
        self._holds, self._coloured = planner.source.holds, bool(planner.augment.jitter or planner.augment.grey)
        self._pool = ThreadPoolExecutor(self.num_threads)
        self._size, fits, self._policy = size, planner.fits, rand_augment(planner.augment, size)
        self._on_gpu = device.type == "cuda" and self._policy is None  # RandAugment is Pillow's
        self._resize = dali_resize(size, fits) if self._on_gpu else torch_resize(size, self._pool, fits, self._policy)
        self._folder = tempfile.mkdtemp(prefix="mae_fast-")  # for images that Pillow decodes for DALI
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._pipe = None

    def batches(self, epoch: int, start: int) -> Iterator[tuple[torch.Tensor, np.ndarray, list[int]]]:
        """Yield (uint8 (B, H, W, C), which images of the source, skipped ones) from batch `start` on."""
        running: deque[_Job] = deque()
        numbers = iter(range(start, len(self.planner.sampler)))
        try:
            while True:
                for number in numbers:
                    running.append(self._submit(epoch, number))
                    if len(running) > self.settings.ahead:
                        break
                if not running:
                    return
                try:
                    images = self._collect()
                except RuntimeError as error:  # the pipeline is dead: take out what killed it, and run these again
                    self._pipe = None
                    self._condemn_culprits(running, error)
                    for _ in range(len(running)):
                        job = running.popleft()
                        job.close()
                        running.append(self._submit(epoch, job.batch))
                    continue
                job = running.popleft()
                job.close()
                yield images, job.plan.indices, job.plan.skipped
        finally:
            self._drain()
            for job in running:
                job.close()

    def abandon(self) -> None:
        """Nothing can end a thread that hangs in a read; the process must."""

    def _submit(self, epoch: int, batch: int) -> _Job:
        plan, items, images = self._plan(epoch, batch)
        inputs, copies = self._inputs(plan, items, images)
        if self._pipe is None:
            self._pipe = self._build(self.planner.sampler.batch_size)
        feed(self._pipe, inputs)
        self._pipe.schedule_run()
        return _Job(batch, plan, copies)

    def _collect(self) -> torch.Tensor:
        stream = torch.cuda.current_stream(self.device) if self._on_gpu else None
        (images,) = self._pipe.outputs(stream)
        return torch.from_dlpack(images.as_tensor()).to(self.device, non_blocking=True)

    def _drain(self) -> None:
        """Take what is still in the making, so that nothing runs on and the next epoch starts clean."""
        try:
            while self._pipe is not None and not self._pipe.empty():
                self._pipe.outputs()
        except RuntimeError:  # a bad file in a batch that is dropped anyway
            self._pipe = None

    def _plan(self, epoch: int, batch: int) -> tuple[Plan, list, dict[int, Image.Image]]:
        """The plan, its images as held, and for the slots whose file DALI must not read what Pillow makes of it."""
        while True:
            plan = self.planner.plan(epoch, batch, self._pool.map)
            slots = [slot for slot, index in enumerate(plan.indices) if index in self.planner.indirect]
            images = list(self._pool.map(self.planner.decode, plan.indices[slots].tolist()))
            items = self._held(plan.indices)
            if not any(item is None for item in (*items, *images)):
                return plan, items, dict(zip(slots, images, strict=True))

    def _held(self, indices: np.ndarray) -> list[str | bytes | np.ndarray | None]:
        """Pictures as the source holds them. Each thread reads a share: a task a picture costs more than its read."""
        shares = np.array_split(indices, self.num_threads)
        read = self._pool.map if self._holds == "bytes" else map
        return list(chain.from_iterable(read(lambda share: list(map(self.planner.encoded, share.tolist())), shares)))

    def _inputs(self, plan: Plan, items: list, images: dict[int, Image.Image]) -> tuple[dict, list[Path]]:
        """The pipeline's inputs by name, and the files written for them."""
        windows, copies = plan.windows.copy(), []
        for slot, image in images.items():
            top, left, height, width = windows[slot].tolist()
            items[slot] = self._as_held(image.crop((left, top, left + width, top + height)))
            if self._holds == "path":
                copies.append(Path(items[slot]))
            windows[slot, :2] = 0
        return self._images(items, windows) | per_sample(plan.flip, plan.colour, fit=plan.fit, seed=plan.seeds), copies

    def _as_held(self, image: Image.Image) -> str | bytes | np.ndarray:
        """An image in the form in which the source holds its own."""
        if self._holds == "pixels":
            return np.asarray(image).reshape(image.height, image.width, -1)
        content = io.BytesIO()
        image.save(content, "PPM")
        if self._holds == "bytes":
            return content.getvalue()
        handle, path = tempfile.mkstemp(".ppm", dir=self._folder)
        with open(handle, "wb") as file:
            file.write(content.getvalue())
        return path

    def _images(self, items: list[str | bytes | np.ndarray], windows: np.ndarray) -> dict:
        """The pipeline's inputs: files and their windows, or the pixels of the windows."""
        if self._holds == "pixels":
            cut = [pixels[top : top + height, left : left + width]
                   for pixels, (top, left, height, width) in zip(items, windows, strict=True)]  # fmt: skip
            return {"pixels": [np.ascontiguousarray(pixels) for pixels in cut]}
        texts = items if self._holds == "bytes" else map(os.fsencode, items)
        files = {self._holds: [np.frombuffer(text, np.uint8) for text in texts]}
        if self.settings.decode == "random_crop":
            return files
        return files | {"anchor": np.ascontiguousarray(windows[:, :2]), "shape": np.ascontiguousarray(windows[:, 2:])}

    def _build(self, batch_size: int):
        mode = self.planner.pixels.mode
        pipe = pipeline(
            self._resize, self._on_gpu, self._holds, self._coloured, mode == "L", self.settings,
            prefetch_queue_depth=self.settings.ahead, batch_size=batch_size, num_threads=self.num_threads,
            device_id=self._device_id(),
        )  # fmt: skip
        # DALI's first run is `ahead` runs at once; spend it on blanks, so that from here on one feed is one batch
        blank = self._images([self._as_held(Image.new(mode, (8, 8)))], np.int32([[0, 0, 8, 8]])) | self._plain()
        for _ in range(self.settings.ahead):
            feed(pipe, blank)
        pipe.schedule_run()
        for _ in range(self.settings.ahead):
            pipe.outputs()
        return pipe

    def _plain(self) -> dict:
        """Pipeline inputs that leave one sample as it is."""
        colour = np.ones((1, 3), np.float32) if self._coloured else None
        fit = np.int32([[*self._size, 0, 0]]) if self.planner.fits else None
        return per_sample(np.zeros(1, np.int32), colour, fit=fit, seed=np.zeros(1, np.int32) if self._policy else None)

    def _device_id(self) -> int | None:
        here = torch.cuda.current_device() if self._on_gpu and self.device.index is None else self.device.index
        return here if self._on_gpu else None

    def _condemn_culprits(self, running: deque[_Job], error: RuntimeError) -> None:
        """Mark the files that ended the pipeline: bad where Pillow cannot decode them either, else Pillow's to decode.

        Raises `error` where no file is to blame.
        """
        for job in running:
            direct = [
                (index, window)
                for index, window in zip(job.plan.indices.tolist(), job.plan.windows, strict=True)
                if index not in self.planner.indirect
            ]
            broken = list(self._pool.map(lambda item: self.planner.decode(item[0]) is None, direct))
            if any(broken) or (self._holds != "pixels" and self._refused(direct)):
                return
        raise error

    def _refused(self, batch: list[tuple[int, np.ndarray]]) -> bool:
        """Try each file alone; from now on Pillow decodes those that DALI does not. True where there was one."""
        pipe, found = None, False
        for index, window in batch:
            pipe = pipe or self._build(1)
            feed(pipe, self._images([self.planner.source.encoded(index)], window[None]) | self._plain())
            pipe.schedule_run()
            try:
                pipe.outputs()
            except RuntimeError:
                self.planner.indirect.add(index)
                pipe, found = None, True
        return found
