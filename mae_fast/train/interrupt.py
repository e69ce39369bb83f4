"""What ends a run early, with a checkpoint to go on from: a signal, answered at the end of a step, or its loader."""

import signal
from pathlib import Path

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: what a job script requeues upon, and no other end of a run gives


class Stopped(Exception):
    """The run ended early; the checkpoint that goes on from there is written, None where none was."""

    def __init__(self, reason: str, exit_code: int, checkpoint: Path | None):
        self.reason, self.exit_code, self.checkpoint = reason, exit_code, checkpoint
        go_on = f"To go on: resume={checkpoint}" if checkpoint else "Nothing was saved: output_dir is empty."
        super().__init__(f"{reason}. {go_on}")


class Interrupted(Stopped):
    """A signal asked the run to stop. exit_code: 128 + its number, as of a shell; of SIGUSR1, which a scheduler sends
    before the time is up (Slurm's --signal=USR1@120), REQUEUE."""

    def __init__(self, signum: int, checkpoint: Path | None, is_main: bool = True):
        exit_code = REQUEUE if signum == signal.SIGUSR1 else 128 + signum
        super().__init__(f"stopped by {signal.Signals(signum).name}", exit_code, checkpoint)
        self.is_main = is_main


class LoaderFailed(Stopped):
    """This rank's loader died or gave no batch in time: `error`, a mae_fast.data.LoaderError."""

    def __init__(self, error: Exception, checkpoint: Path | None):
        super().__init__(str(error), 1, checkpoint)
        self.error = error


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """Notes a SIGINT, SIGTERM or SIGUSR1 for the loop to see; a Ctrl-C after it interrupts at once."""

    def __init__(self):
        self.signum = 0
        self.previous = {s: signal.signal(s, self._note) for s in SIGNALS}

    def _note(self, signum, frame):
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def restore(self) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
