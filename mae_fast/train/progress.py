"""How far a run is, on standard error: a bar on a terminal, a line now and then in a file or a pipe."""

import sys
import time

from tqdm import tqdm

INTERVAL = 30  # seconds between two lines


class Bar:
    """Images done of `total`, with the rate and the time left; `initial` were done by an earlier process."""

    def __init__(self, total: int, initial: int):
        self.bar = tqdm(
            total=total,
            initial=initial,
            unit=" images",
            dynamic_ncols=True,
            mininterval=0.2,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_fmt} left {remaining}{postfix}",
        )

    def update(self, images: int, where: str, state: str) -> None:
        """Add images done; where: the epoch, state: loss and learning rate."""
        self.bar.set_description(where, refresh=False)
        self.bar.set_postfix_str(state, refresh=False)
        self.bar.update(images)

    def epoch_end(self) -> None:
        """Nothing to do: the bar shows it by itself."""

    def say(self, text: str) -> None:
        self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()


class Lines:
    """Progress in plain lines, one every INTERVAL seconds and one at the end of each epoch."""

    def __init__(self, total: int, initial: int):
        self.total, self.done, self.initial = total, initial, initial
        self.began = self.printed = time.monotonic()
        self.line = ""

    def update(self, images: int, where: str, state: str) -> None:
        self.done += images
        now = time.monotonic()
        rate = (self.done - self.initial) / max(now - self.began, 1e-9)
        left = tqdm.format_interval((self.total - self.done) / rate) if rate else "?"
        self.line = f"{where}, {self.done / self.total:.0%}, {state}, {rate:.1f} images/s, {left} left"
        if now - self.printed >= INTERVAL:
            self._print(now)

    def epoch_end(self) -> None:
        if self.line:
            self._print(time.monotonic())

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Print the last line if it is not printed yet."""
        self.epoch_end()

    def _print(self, now: float) -> None:
        self.say(self.line)
        self.line, self.printed = "", now
