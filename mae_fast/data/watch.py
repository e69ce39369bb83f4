"""Nobody waits for a loader for ever: its batches come from a thread, and who asks for one has a limit."""

import contextlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from queue import Empty, SimpleQueue
from threading import Thread

import torch

from mae_fast.data.sources.image_file import BadImageError

# Seconds for one batch: no file system that works takes as long, and a night is not lost to one that hangs.
TIMEOUT = 600.0


class LoaderError(RuntimeError):
    """A loader cannot go on: it died. The message names the loader and the cause."""


class LoaderStalled(LoaderError):
    """A loader gave no batch for too long. What it hangs in may hold threads for ever, also at the program's end."""


def watched(
    batches: Iterator, name: str, device: torch.device, timeout: float, abandon: Callable[[], None] = lambda: None
) -> Iterator:
    """The same batches, each made in a thread of its own when it is asked for; they are closed at the end.

    name: of the loader, for messages; timeout: seconds for one batch; abandon: called where one takes longer, to end
    what makes it. Raises BadImageError as it comes, LoaderStalled, and LoaderError for all other errors.

    In its own thread a hang inside DALI or the kernel leaves the caller free, and the death of a worker process is
    found between two batches: in the main thread DataLoader raises it out of a signal handler, in the middle of a step.
    """
    asked, answers = SimpleQueue(), SimpleQueue()
    on_stream = contextlib.nullcontext
    if device.type == "cuda":  # what a thread computes on is its own affair, and so is the device: hand both over
        stream = torch.cuda.current_stream(device)
        on_stream = lambda: torch.cuda.stream(stream)  # noqa: E731
    Thread(target=_serve, args=(batches, asked, answers, on_stream), name=f"{name} loader", daemon=True).start()
    busy = False
    try:
        while True:
            asked.put(True)
            busy = True
            try:
                batch, error = answers.get(timeout=timeout)
            except Empty:
                abandon()
                raise LoaderStalled(f"loader: {name} gave no batch for {timeout:g} seconds, loader_timeout") from None
            busy = False
            if isinstance(error, StopIteration):
                return
            if isinstance(error, BadImageError):
                raise error
            if error is not None:
                raise LoaderError(f"loader: {name} died: {cause(error)}") from error
            yield batch
    finally:
        asked.put(False)
        if not busy:  # else the thread is inside of it, and ends after that batch, if ever
            batches.close()


def _serve(batches: Iterator, asked: SimpleQueue, answers: SimpleQueue, on_stream: Callable) -> None:
    with on_stream():
        while asked.get():
            try:
                answers.put((next(batches), None))
            except BaseException as error:
                answers.put((None, error))


def cause(error: BaseException) -> str:
    """An error in one line: its first, and of a DALI pipeline's many lines the one that says what was met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    met = next((line for before, line in pairwise(lines) if before == "encountered:"), "")
    return f"{lines[0].rstrip(':.')}: {met}".rstrip(": .") if met else lines[0].rstrip(".")
