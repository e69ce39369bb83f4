"""Reports of a run: progress, log.txt, TensorBoard, loss.png. Rank 0 alone calls this."""

import gc
import json
import math
import sys
import time
from pathlib import Path

from mae_fast.files.atomic import write_atomic
from mae_fast.train.progress import Bar, Lines


class Report:
    """Writes into output_dir and log_dir; either may be empty for no writing.

    start: fractional epoch at which this process goes on. Lines of log.txt and events from there on were written by a
    run that got further than its last checkpoint; they are dropped, and come again.
    """

    def __init__(self, output_dir: str, log_dir: str, epochs: int, images_per_epoch: int, start: float):
        self.folder = Path(output_dir) if output_dir else None
        if self.folder:
            log = self.folder / "log.txt"
            _write_log(log, [entry for entry in read_log(log) if entry["epoch"] < int(start)])
        self.writer = None
        if log_dir:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(log_dir, purge_step=int(1000 * start) if start else None)
        self.drawn = -math.inf
        self.epochs = epochs
        total, initial = epochs * images_per_epoch, round(start * images_per_epoch)
        self.bar = Bar(total, initial) if sys.stderr.isatty() else Lines(total, initial)

    def steps(self, epoch: int, records: list[tuple[float, float, float]], images: int) -> None:
        """Show finished steps and write them as events. records: (fractional epoch, lr, loss) of each."""
        _, lr, loss = records[-1]
        self.bar.update(images, f"epoch {epoch + 1}/{self.epochs}", f"loss {loss:.4f} lr {lr:.2e}")
        if self.writer:
            for at, lr, loss in records:
                if math.isfinite(loss):
                    self.writer.add_scalar("train_loss", loss, int(at * 1000))
                self.writer.add_scalar("lr", lr, int(at * 1000))

    def epoch(self, epoch: int, train_lr: float, train_loss: float) -> None:
        """Add a finished epoch to log.txt."""
        self.bar.epoch_end()
        if self.folder:
            path = self.folder / "log.txt"
            entry = {"train_lr": train_lr, "train_loss": train_loss, "epoch": epoch}
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        if self.writer:
            self.writer.flush()

    def picture(self) -> None:
        """Draw loss.png from log.txt, at most once a minute."""
        if self.folder and time.monotonic() - self.drawn > 60:
            self._draw()

    def _draw(self) -> None:
        if entries := read_log(self.folder / "log.txt"):
            plot_loss(entries, self.folder / "loss.png")
            gc.collect()  # a figure is a cycle with megabytes of pixels; left to itself Python keeps a dozen of them
        self.drawn = time.monotonic()

    def say(self, text: str) -> None:
        self.bar.say(text)

    def close(self) -> None:
        self.bar.close()
        if self.folder:
            self._draw()
        if self.writer:
            self.writer.close()


def read_log(path: Path) -> list[dict]:
    """The epochs in a log.txt, oldest first; a last line that a kill cut short is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [entry for entry in entries if isinstance(entry, dict) and "epoch" in entry]


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
