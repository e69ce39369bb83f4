"""One batch before its pixels: which pictures, which windows of them, which flips and colours.

Both loaders follow the same plans, so they give the same crops.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mae_fast.data.augment import DRAWS, Augment, colours, crop_windows, flips, seeds
from mae_fast.data.sampler import Sampler
from mae_fast.data.sources import Source
from mae_fast.data.sources.image_file import UNUSUAL, BadImageError, Header, explain
from mae_fast.data.sources.reader import reader_of
from mae_fast.pixels import RGB, Pixels

BAD_ADVICE = "repair or delete it, or use on_bad_image skip; mae-fast data check lists every bad file"


@dataclass(frozen=True)
class Plan:
    """indices: int64 (B,) into the source; windows: int32 (B, 4) top, left, height, width; flip: int32 (B,) 0 or 1;
    colour: float32 (B, 3) brightness, contrast, saturation, or None; skipped: bad pictures that would have been here.
    fit: int32 (B, 4) height and width that the window is resized to, top and left of what is cut from that; None where
    it is resized to what the batch holds. seeds: int32 (B,) for RandAugment, or None.
    """

    indices: np.ndarray
    windows: np.ndarray
    flip: np.ndarray
    colour: np.ndarray | None
    skipped: list[int]
    fit: np.ndarray | None = None
    seeds: np.ndarray | None = None


class Planner:
    """Makes plans. Remembers for the life of the process the headers it has read and the pictures found bad."""

    fits = False  # whether plans say how a whole picture is fitted

    def __init__(self, source: Source, sampler: Sampler, augment: Augment, convert: bool, pixels: Pixels = RGB):
        """Plan batches of source. convert: files that are not as pixels says, but can be made so, count as good."""
        self.source, self.sampler, self.augment, self.convert = source, sampler, augment, convert
        self.pixels, self.reader = pixels, reader_of(pixels)
        self.sizes = np.zeros((len(source), 2), np.int32)  # height, width; 0 = header not read yet
        self.faults: dict[int, str] = {}
        self.indirect: set[int] = set()  # good, but only Pillow decodes them as meant
        self._order = (None, None)

    def plan(self, epoch: int, batch: int, map=map) -> Plan:
        """Plan a batch of an epoch. map: how to read many headers at once, an executor's for instance.

        The place of a bad picture goes to the next good one in the order of the epoch. Raises BadImageError where none
        is good.
        """
        if self._order[0] != epoch:
            self._order = (epoch, self.sampler.order(epoch))
        order, places = self._order[1], self.sampler.places(batch)
        unread = [int(index) for index in order[places] if not self._known(index)]
        for index, header in zip(unread, map(self._header, unread), strict=True):
            self._learn(index, header)
        skipped: dict[int, None] = {}
        indices = np.array([self._first_good(order, place, skipped) for place in places])
        return self._arrange(epoch, batch, indices, list(skipped))

    def decode(self, index: int) -> Image.Image | np.ndarray | None:
        """The whole picture, in Pillow's mode pixels.mode or as an array (C, H, W); None where it proves bad, which is
        then remembered."""
        try:
            image = self.reader.decode(self.source.encoded(index))
            size = image.shape[:0:-1] if isinstance(image, np.ndarray) else image.size
            if size != tuple(self.sizes[index, ::-1]):
                raise OSError(f"its header says {self.sizes[index, ::-1]} pixels, its content {size}")
            return image
        except Exception as error:  # a damaged file may raise anything at all inside Pillow
            self.faults[index] = explain(error)
            return None

    def encoded(self, index: int) -> str | bytes | np.ndarray | None:
        """A picture as the source holds it; None where it cannot give it any more, which is then remembered."""
        try:
            return self.source.encoded(index)
        except Exception as error:  # an archive that was whole when its headers were read
            self.faults[index] = explain(error)
            return None

    def error(self, index: int) -> BadImageError:
        """The error that stops training at a bad picture."""
        reason = self.faults[index]
        advice = self.reader.advice if reason in UNUSUAL else BAD_ADVICE
        return BadImageError(f"{self.source.name(index)}: {reason}; {advice}")

    def _arrange(self, epoch: int, batch: int, indices: np.ndarray, skipped: list[int]) -> Plan:
        """The plan of a batch whose pictures are chosen."""
        draws = self.sampler.draws(epoch, batch, DRAWS)
        windows = crop_windows(self.sizes[indices], draws, self.augment)
        of_pixels = flips(draws, self.augment), colours(draws, self.augment)
        return Plan(indices, windows, *of_pixels, skipped, seeds=seeds(draws, self.augment))

    def _header(self, index: int) -> Header:
        return self.reader.header_of(self.source, index)

    def _known(self, index: int) -> bool:
        return self.sizes[index, 0] > 0 or index in self.faults

    def _learn(self, index: int, header: Header) -> None:
        self.sizes[index] = header.height, header.width
        if header.fault or (header.unusual and not self.convert):
            self.faults[index] = header.fault or header.unusual
        # DALI reads these like Pillow does; it refuses some files of the other formats, or turns them differently
        elif header.unusual or header.kind not in ("JPEG", "MPO", "PNG", "WEBP", "pixels"):
            self.indirect.add(index)

    def _first_good(self, order: np.ndarray, place: int, skipped: dict[int, None]) -> int:
        for step in range(len(order)):
            index = int(order[(place + step) % len(order)])
            if not self._known(index):
                self._learn(index, self._header(index))
            if index not in self.faults:
                return index
            skipped[index] = None
        raise BadImageError(f"not one good image; the first: {self.error(index)}")
