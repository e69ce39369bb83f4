"""Progress where there is no terminal: plain lines, one every half minute and one an epoch. What a picture leaves."""

import gc

import pytest
from matplotlib.figure import Figure

from mae_fast.train import progress
from mae_fast.train.report import Report


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_half_minute_and_at_the_end_of_an_epoch(clock, capsys):
    report = Report("", "", epochs=2, images_per_epoch=100, start=0.0)

    def steps(epoch, seconds, images=10):
        clock[0] += seconds
        report.steps(epoch, [(0.0, 1.5e-4, 0.5)], images)

    for _ in range(4):
        steps(0, 10)
    assert capsys.readouterr().err == "epoch 1/2, 15%, loss 0.5000 lr 1.50e-04, 1.0 images/s, 02:50 left\n"
    steps(0, 10, images=60)
    report.epoch(0, 1.5e-4, 0.5)
    assert capsys.readouterr().err == "epoch 1/2, 50%, loss 0.5000 lr 1.50e-04, 2.0 images/s, 00:50 left\n"
    report.say("skipped 2 bad images")
    steps(1, 1)
    report.close()
    first, last = capsys.readouterr().err.splitlines()
    assert first == "skipped 2 bad images" and last.startswith("epoch 2/2, 55%")


def test_a_resumed_run_counts_from_where_it_goes_on(clock, capsys):
    report = Report("", "", epochs=4, images_per_epoch=100, start=2.5)
    clock[0] += 30
    report.steps(2, [(2.5, 1e-4, 0.25)], 30)
    assert capsys.readouterr().err == "epoch 3/4, 70%, loss 0.2500 lr 1.00e-04, 1.0 images/s, 02:00 left\n"
    report.close()
    assert not capsys.readouterr().err


def test_a_terminal_gets_the_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    report = Report("", "", epochs=1, images_per_epoch=10, start=0.0)
    report.steps(0, [(0.0, 1e-4, 0.5)], 10)
    report.close()
    assert "\r" in capsys.readouterr().err


def test_a_picture_leaves_nothing_behind(tmp_path):
    """A figure is a cycle, which Python may keep for hours."""
    report = Report(str(tmp_path), "", epochs=2, images_per_epoch=100, start=0.0)
    report.epoch(0, 1e-3, 1.0)
    gc.disable()
    try:
        report.picture()
        assert (tmp_path / "loss.png").is_file()
        assert not [thing for thing in gc.get_objects() if type(thing) is Figure]
    finally:
        gc.enable()
