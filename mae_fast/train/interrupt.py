"""What ends a run early, with a checkpoint to go on from: a signal, answered at the end of a step, or its loader."""

import signal
from pathlib import Path


class Stopped(Exception):
    """The run ended early; the checkpoint that goes on from there is written, None where none was."""

    def __init__(self, reason: str, exit_code: int, checkpoint: Path | None):
        self.reason, self.exit_code, self.checkpoint = reason, exit_code, checkpoint
        go_on = f"To go on: resume={checkpoint}" if checkpoint else "Nothing was saved: output_dir is empty."
        super().__init__(f"{reason}. {go_on}")


class Interrupted(Stopped):
    """A signal asked the run to stop."""

    def __init__(self, signum: int, checkpoint: Path | None, is_main: bool = True):
        super().__init__(f"stopped by {signal.Signals(signum).name}", 128 + signum, checkpoint)
        self.is_main = is_main


class LoaderFailed(Stopped):
    """This rank's loader died or gave no batch in time: `error`, a mae_fast.data.LoaderError."""

    def __init__(self, error: Exception, checkpoint: Path | None):
        super().__init__(str(error), 1, checkpoint)
        self.error = error


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
