"""Processes that start together, say when they are ready, and then do what they are told, one at a time.

A command is a JSON line to a worker's standard input, its answer a JSON line back. What else a worker prints goes to
its log. One that dies or does not answer in time is an answer too: {"error": why, with the last line of its log}.

Workers stay in the process group of who started them, so that whoever stops that group stops them as well; where only
who started them dies, Linux ends them, and elsewhere the end of their standard input does.
"""

import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the clone; not provenance's, with which PyTorch would be imported
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
LONGEST = 3600.0  # seconds that anybody waits for an answer


class Worker:
    """A process. command: what it runs; log: where its output goes; env: variables beside those of this process."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self._answers = log, queue.SimpleQueue()
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
                env=os.environ | (env or {}),
            )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def answer(self, until: float) -> dict:
        """The next answer. until: time.monotonic() up to which to wait; a worker that is late is stopped."""
        began = time.monotonic()
        try:
            answer = self._answers.get(timeout=min(max(0.0, until - began), LONGEST))
        except queue.Empty:
            self.stop()  # what it might say later would be taken for the answer to something else
            return {"error": f"no time left: no answer in {time.monotonic() - began:.0f} s{self._last_line()}"}
        if answer is None:
            self._answers.put(None)  # nor is there another
            return {"error": f"ended with exit code {self.process.wait()}{self._last_line()}"}
        return answer

    def tell(self, command: dict) -> None:
        """Ask, and leave the answer for later."""
        with suppress(OSError):  # it is dead: answer() says so
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()

    def ask(self, command: dict, until: float) -> dict:
        self.tell(command)
        return self.answer(until)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _last_line(self) -> str:
        last = next(reversed(self.log.read_text(errors="replace").strip().splitlines()), "")
        return f"; {self.log.name}: {last[:200]}" if last else ""


def commands() -> tuple[Callable[..., None], Iterator[dict]]:
    """A worker's end -> (say(**answer), the commands that come). What is printed goes to the log from here on."""
    with suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**answer) -> None:
        print(json.dumps(answer), file=out, flush=True)

    return say, map(json.loads, sys.stdin)
