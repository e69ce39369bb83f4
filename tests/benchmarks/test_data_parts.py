"""What `mae-fast bench data` rests on: files under many names, windows of time, processor time, the sweep."""

import subprocess
import sys
import time

import pytest
from PIL import Image

from benchmarks.harness import record, sample
from benchmarks.harness.cpu_time import cpu_seconds
from benchmarks.harness.steady import Steady
from tests.benchmarks.small import QUICK, bench


def test_few_pictures_under_many_names_and_their_small_copies():
    with sample.write_jpegs(7, distinct=3) as paths, sample.shrunk(paths, 64) as small:
        assert len({path.stat().st_ino for path in paths}) == 3 == len({path.stat().st_ino for path in small})
        assert Image.open(small[3]).size == (85, 64) and paths[4].read_bytes() == paths[1].read_bytes()
        assert small[4].stat().st_ino == small[1].stat().st_ino
        folders = paths[0].parent, small[0].parent
    assert not any(folder.exists() for folder in folders)


def test_windows_come_after_the_warm_up_and_end_in_time():
    taken = []

    def batches():
        while True:
            taken.append(len(taken))
            time.sleep(0.5 if len(taken) <= 2 else 0.01)
            yield

    steady = Steady.of(batches(), 2, 3, 0.1)
    assert len(steady.seconds) == 3 and 0.01 <= min(steady.seconds) < 0.4
    assert len(Steady.of(batches(), 0, 3, 0.0, until=0).seconds) == 1


def test_processor_time_of_children_that_still_run_counts():
    began = cpu_seconds()
    program = "import sys, time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\nsys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    assert cpu_seconds() - began >= 0.45
    child.communicate()
    assert cpu_seconds() - began >= 0.45


def test_a_sweep_tries_dalis_settings_and_names_the_best(tmp_path, capsys):
    pytest.importorskip("nvidia.dali")
    assert bench("data", *QUICK, "--sweep", "--out", str(tmp_path)) == 0
    rows = record.read(tmp_path / "data_sweep.json")["rows"]
    assert {row["side"] for row in rows} >= {"decode slice", "decode whole", "decode random_crop"}
    assert all(row["images_per_s"] > 0 and row["cores"] > 0 for row in rows)
    best = capsys.readouterr().out.splitlines()[-1]
    fastest = max((row for row in rows if "random" not in row["side"]), key=lambda row: row["images_per_s"])
    assert best.startswith("best: ") and fastest["side"].split(",")[0] in best
