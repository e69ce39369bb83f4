"""Reports of a run: progress, log.txt, run.jsonl, TensorBoard, loss.png. Rank 0 alone calls this."""

import gc
import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from mae_fast.files.appended import Appended, read_lines
from mae_fast.files.atomic import write_atomic
from mae_fast.train.journal import Journal
from mae_fast.train.progress import Bar, Lines

logger = logging.getLogger(__name__)


class Report:
    """Writes into output_dir and log_dir; either may be empty for no writing.

    start: fractional epoch at which this process goes on. Lines of log.txt and events from there on were written by a
    run that got further than its last checkpoint; they are dropped, and come again.

    again: an earlier process of this run may have been here, even where start is 0.

    A disk that takes no more ends no run: that is said once, the lines of log.txt and run.jsonl come later, and events
    end.
    """

    def __init__(
        self, output_dir: str, log_dir: str, epochs: int, images_per_epoch: int, start: float, again: bool = False
    ):
        self.folder = Path(output_dir) if output_dir else None
        if self.folder:
            log = self.folder / "log.txt"
            _write_log(log, [entry for entry in read_log(log) if entry["epoch"] < int(start)])
            self.log, self.journal = Appended(log), Journal(self.folder, again or start > 0)
        self.writer = None
        if log_dir:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(log_dir, purge_step=int(1000 * start) if start else None)
            _quieten_threads()
        self.drawn = -math.inf
        self.told: set[str] = set()
        self.epochs = epochs
        total, initial = epochs * images_per_epoch, round(start * images_per_epoch)
        self.bar = Bar(total, initial) if sys.stderr.isatty() else Lines(total, initial)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Count images and seconds of an epoch from now on, until its last step."""
        self.began, self.images, self.seconds = time.perf_counter(), 0, 0.0

    def steps(self, epoch: int, records: list[tuple[float, float, float]], images: int) -> None:
        """Show finished steps and write them as events. records: (fractional epoch, lr, loss) of each."""
        _, lr, loss = records[-1]
        self.images, self.seconds = self.images + images, time.perf_counter() - self.began
        self.bar.update(images, f"epoch {epoch + 1}/{self.epochs}", f"loss {loss:.4f} lr {lr:.2e}")
        self._events(lambda: self._add(records))

    def _add(self, records: list[tuple[float, float, float]]) -> None:
        for at, lr, loss in records:
            if math.isfinite(loss):
                self.writer.add_scalar("train_loss", loss, int(at * 1000))
            self.writer.add_scalar("lr", lr, int(at * 1000))

    def epoch(
        self,
        epoch: int,
        train_lr: float,
        train_loss: float,
        more: dict[str, float] | None = None,
        noted: dict | None = None,
    ) -> None:
        """Add a finished epoch to log.txt. more: other numbers of it, which become events as well; noted: for run.jsonl
        besides its speed."""
        self.bar.epoch_end()
        more, seconds = more or {}, round(self.seconds, 4)
        self.note("epoch", epoch=epoch, seconds=seconds, images=self.images, **(noted or {}))
        if self.folder:
            self.log.add({"train_lr": train_lr, "train_loss": train_loss, **more, "epoch": epoch})
            self._try(self.log.path, lambda _: self.log.write())
        self._events(lambda: self._add_epoch(epoch, more))
        self.begin_epoch()

    def _add_epoch(self, epoch: int, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, 1000 * (epoch + 1))
        self.writer.flush()

    def note(self, event: str, **facts) -> None:
        """Add an event to run.jsonl, see mae_fast.train.journal."""
        if self.folder:
            self._try(self.journal.path, lambda _: self.journal.add(event, **facts))

    def picture(self) -> None:
        """Draw loss.png from log.txt, at most once a minute."""
        if self.folder and time.monotonic() - self.drawn > 60:
            self._try(self.folder / "loss.png", self._draw)

    def _draw(self, path: Path) -> None:
        if entries := read_log(self.folder / "log.txt"):
            plot_loss(entries, path)
            gc.collect()  # a figure is a cycle with megabytes of pixels; left to itself Python keeps a dozen of them
        self.drawn = time.monotonic()

    def _try(self, path: Path, write: Callable[[Path], None]) -> bool:
        """-> whether it was written; where not, a warning, the first time."""
        try:
            write(path)
        except OSError as error:
            if path.name not in self.told:
                self.told.add(path.name)
                logger.warning("%s could not be written (%s). The run goes on", path, error.strerror or error)
            return False
        return True

    def _events(self, write: Callable[[], None]) -> None:
        """Hand events to TensorBoard's thread; the error of an earlier write comes with a later one, and ends it."""
        if self.writer and not self._try(Path(self.writer.get_logdir()) / "events.out.tfevents", lambda _: write()):
            self.writer = None

    def say(self, text: str) -> None:
        self.bar.say(text)

    def close(self) -> None:
        self.bar.close()
        if self.folder:
            self._try(self.log.path, lambda _: self.log.write())
            self._try(self.folder / "loss.png", self._draw)
        self._events(lambda: self.writer.close())


@cache
def _quieten_threads() -> None:
    threading.excepthook = partial(_tell_once, threading.excepthook)


def _tell_once(otherwise: Callable, args) -> None:
    """The errors of threads but for a disk's in TensorBoard's, which hands them to its next call as well."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
        otherwise(args)


def read_log(path: Path) -> list[dict]:
    """The epochs in a log.txt, oldest first; a last line that a kill cut short is left out."""
    return [entry for entry in read_lines(path) if "epoch" in entry]


def _write_log(path: Path, entries: list[dict]) -> None:
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_atomic(path, lambda file: file.write(text.encode()))


def plot_loss(entries: list[dict], path: Path) -> None:
    """Loss (left axis) and learning rate (right axis) over epochs, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    loss_axis = figure.subplots()
    epochs = [entry["epoch"] + 1 for entry in entries]
    dot = {"marker": "."} if len(epochs) < 30 else {}
    loss_axis.plot(epochs, [entry["train_loss"] for entry in entries], color="tab:blue", **dot)
    loss_axis.set(xlabel="epoch", ylabel="training loss")
    loss_axis.xaxis.get_major_locator().set_params(integer=True)
    loss_axis.grid(alpha=0.3)
    lr_axis = loss_axis.twinx()
    lr_axis.plot(epochs, [entry["train_lr"] for entry in entries], color="tab:gray", linewidth=1, linestyle="--")
    lr_axis.set_ylabel("learning rate (dashed)")
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=120))
