"""Ctrl-C and SIGTERM, as a request that the loop answers at the end of a step."""

import signal
from pathlib import Path


class Interrupted(Exception):
    """A signal asked the run to stop; the checkpoint that goes on from there is written."""

    def __init__(self, signum: int, checkpoint: Path | None, is_main: bool = True):
        self.checkpoint, self.is_main, self.exit_code = checkpoint, is_main, 128 + signum
        self.reason = f"stopped by {signal.Signals(signum).name}"
        go_on = f"To go on: resume={checkpoint}" if checkpoint else "Nothing was saved: output_dir is empty."
        super().__init__(f"{self.reason}. {go_on}")


class StopSignal:
    """Notes the first SIGINT or SIGTERM for the loop to see; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.signum = 0
        self.previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, signum, frame):
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def restore(self) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
