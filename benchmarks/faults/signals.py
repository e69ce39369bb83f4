"""Signals, at random moments."""

import os
import random
import signal
import time

from benchmarks.faults.scene import Outcome, Scene, finished, sentence


def killed(scene: Scene, times: int = 1) -> Outcome:
    """SIGKILL, as where memory runs out: again and again, at any moment of a run, its start included."""
    out, left = scene.new(), times
    while left and not finished(out, scene.epochs)():
        run = scene.start(out)
        before = newest(out)
        if random.random() < 0.8:  # else in its start
            run.until(lambda before=before: newest(out) > before or finished(out, scene.epochs)(), "a checkpoint")
        time.sleep(random.uniform(0, 0.5))
        run.kill()
        left -= 1
    return Outcome(f"killed {times - left} times", scene.goes_on(out))


def newest(out) -> int:
    return max((path.stat().st_mtime_ns for path in out.glob("checkpoint-[0-9]*.pth")), default=0)


def signalled(signum: signal.Signals, code: int):
    def inject(scene: Scene) -> Outcome:
        out = scene.new()
        run = scene.start(out)
        run.until(lambda: newest(out) > 0, "a checkpoint")
        time.sleep(random.uniform(0, 0.3))
        began = time.monotonic()
        os.kill(run.pid, signum)
        said = run.ended(code)
        seconds = time.monotonic() - began
        line = sentence(said, f"stopped by {signum.name}. To go on: mae-fast pretrain")
        assert (out / "checkpoint-interrupted.pth").exists()
        return Outcome(line, scene.goes_on(out), seconds)

    return inject


terminated, requeued = signalled(signal.SIGTERM, 143), signalled(signal.SIGUSR1, 75)
