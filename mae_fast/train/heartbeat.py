"""Which rank is gone: each counts up in the group's store, and the others end, with its name, when it stops.

gloo's error of a lost peer names an address, and NCCL waits for its timeout. A thread of each rank writes its count;
rank 0 reads all of them, the others read rank 0's and what it found, so that a thousand ranks ask no more than two.
Time is counted in this rank's own beats: a machine that slept does not take the others for dead.
"""

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable

EVERY = 2.0  # seconds between two beats
MISSED = 15  # beats that a rank may miss: long holds of Python's lock happen, half a minute of it does not
MISSED_AFTER_ERROR = 4  # where an operation among ranks has failed already

logger = logging.getLogger(__name__)


class RankLost(RuntimeError):
    """Another rank is gone; the message names it, and its reason where it left one."""


class Heartbeat:
    """Begins to beat when made.

    store: of this group alone, with nothing in it of one before; remedy: the end of the sentence that the run stops
    with, asked for at that time.
    """

    def __init__(self, store, rank: int, size: int, remedy: Callable[[], str] = lambda: "", every: float = EVERY):
        self.store = store.clone()  # a connection of its own: others wait in theirs
        self.rank, self.size, self.remedy, self.every = rank, size, remedy, every
        self.missed = MISSED
        self._seen: dict[int, tuple[bytes, int]] = {}  # rank: its count, beats since it was new
        self._found, self._asked, self._end = threading.Event(), threading.Event(), threading.Event()
        self._rounds = 0
        self.verdict = ""
        self.store.set(f"host/{rank}", socket.gethostname())
        self._beat(0)
        for work in (self._talk, self._judge):
            threading.Thread(target=work, name="heartbeat", daemon=True).start()

    def leave(self, reason: str = "") -> None:
        """Stop, before the rank leaves the group. reason: why the run cannot go on, for the others to tell."""
        self._end.set()
        try:
            if not self.verdict:
                self.store.set(f"left/{self.rank}", reason or "done")
        except Exception as error:
            logger.debug("the store is gone: %s", error)

    def blame(self) -> RankLost | None:
        """Who is behind the error of an operation among ranks; None where all still beat."""
        self._asked.set()
        self.missed = MISSED_AFTER_ERROR
        if self._found.wait(timeout=self.every * (2 * MISSED_AFTER_ERROR + 4)):
            return RankLost(self.sentence())
        return None

    def sentence(self) -> str:
        return f"{self.verdict}. {self.remedy()}".strip()

    def _talk(self) -> None:
        while not self._end.wait(self.every) and not self.verdict:
            try:
                self._beat(self._rounds + 1)
                self.verdict = self.verdict or self._look()
            except Exception as error:
                self.verdict = f"the store where the ranks meet is gone ({first_line(error)})"
            self._rounds += 1

    def _judge(self) -> None:
        """Apart from the thread that talks, which waits for ever where the machine of the store is off."""
        before, missed = -1, 0
        while not self._end.wait(self.every / 2):
            missed, before = (missed + 1 if self._rounds == before else 0), self._rounds
            if missed > 2 * self.missed and not self.verdict:
                self.verdict = f"the store of the ranks has not answered for {missed * self.every / 2:.0f} seconds"
            if self.verdict:
                self._found.set()
                if not self._asked.wait(5 * self.every) and not self._end.is_set():
                    self._die()
                return

    def _beat(self, count: int) -> None:
        self.store.set(f"beat/{self.rank}", str(count))

    def _look(self) -> str:
        """-> what is wrong with another rank, "" for nothing."""
        if self.rank and self.store.check(["found"]):
            return self.store.get("found").decode()
        for other in range(1, self.size) if self.rank == 0 else (0,):
            if found := self._wrong_with(other):
                if self.rank == 0:
                    self.store.set("found", found)
                return found
        return ""

    def _wrong_with(self, other: int) -> str:
        name = f"beat/{other}"
        count = self.store.get(name) if self.store.check([name]) else b""
        before, missed = self._seen.get(other, (count, 0))
        missed = 0 if count != before else missed + 1
        self._seen[other] = count, missed
        if missed == 0:
            return ""
        if self.store.check([f"left/{other}"]):
            reason = self.store.get(f"left/{other}").decode()
            return "" if reason == "done" else f"rank {other} on {self._host(other)} stopped: {reason}"
        if missed < self.missed:
            return ""
        return f"rank {other} on {self._host(other)} has not been heard of for {missed * self.every:.0f} seconds"

    def _host(self, other: int) -> str:
        name = f"host/{other}"
        return self.store.get(name).decode() if self.store.check([name]) else "a host that never joined"

    def _die(self) -> None:
        """End the process: its main thread waits for the lost rank inside of a library, where no exception reaches."""
        logger.error("%s", self.sentence())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
