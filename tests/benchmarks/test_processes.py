"""Workers: they run at the same time, answer in order, and one that dies or is late is an answer too."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness.processes import Worker

ECHO = """
import sys, time
from benchmarks.harness.processes import commands
say, asked = commands()
print("a line of a library", flush=True)
time.sleep(float(sys.argv[1]))
say(ready=True)
for command in asked:
    if "fail" in command:
        raise SystemExit("cannot go on")
    time.sleep(command.get("sleep", 0))
    say(echo=command["text"])
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    workers = []

    def one(name, sleep=0.0):
        workers.append(Worker([sys.executable, "-c", ECHO, str(sleep)], tmp_path / "logs" / f"{name}.log"))
        return workers[-1]

    yield one
    for worker in workers:
        worker.stop()


def soon(seconds=60):
    return time.monotonic() + seconds


def test_commands_are_answered_in_order_and_prints_go_to_the_log(start):
    worker = start("a")
    assert worker.answer(soon()) == {"ready": True}
    assert [worker.ask({"text": word}, soon()) for word in "xy"] == [{"echo": "x"}, {"echo": "y"}]
    assert worker.log.read_text() == "a line of a library\n"


def test_one_that_dies_or_is_late_says_why(start):
    dying, late = start("dying"), start("late", sleep=300)
    dying.answer(soon())
    assert dying.ask({"fail": 1}, soon()) == {"error": "ended with exit code 1; dying.log: cannot go on"}
    assert dying.ask({"text": "anybody"}, soon())["error"].startswith("ended with exit code 1")
    deadline = soon()
    while not late.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert late.answer(soon(0.1)) == {"error": "no time left: no answer in 0 s; late.log: a line of a library"}
    assert late.process.poll() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker ends when it next reads")
def test_nobody_is_left_when_who_started_them_is_killed(tmp_path):
    worker = "from benchmarks.harness.processes import commands; commands()[0](ready=1); import time; time.sleep(300)"
    parent = f"""
import sys, time
from pathlib import Path
from benchmarks.harness.processes import Worker
worker = Worker([sys.executable, "-c", {worker!r}], Path(sys.argv[1]))
worker.answer(time.monotonic() + 60)
print(worker.process.pid, flush=True)
time.sleep(300)
"""
    started = subprocess.Popen([sys.executable, "-c", parent, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    pid = int(started.stdout.readline())
    started.kill()
    started.wait()
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}/status").exists() and "(zombie)" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
