"""The report page: what it shows, that it needs nothing from outside, and how it looks in a browser."""

import json
import re
import shutil
import subprocess
from html import escape

import numpy as np
import pytest
from PIL import Image

from mae_fast.cli import main
from mae_fast.downstream.report import write_report
from mae_fast.downstream.report.charts import MOST, thinned, ticks
from mae_fast.train.journal import Journal

BROWSER = next(filter(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium (Debian: chromium-headless-shell)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 40 epochs that was killed once, went on, and was stopped; with a probe every fourth epoch."""
    folder = tmp_path_factory.mktemp("run")
    journal = Journal(folder, again=False)
    settings = {"epochs": 50, "data_path": "IMAGES/<b>", "batch_size": 64, "a_setting_with_a_long_name": "x" * 120}
    about = {"model": "mae_vit_tiny_patch8", "parameters": 473184, "images": 1024, "device": "CPU, 2 threads",
             "versions": {"torch": "2.13.0"}, "settings": settings, "changed": ["epochs", "data_path"]}  # fmt: skip
    journal.add("start", epoch=0.0, resumed_from=None, **about)
    lines = []
    for epoch in range(40):
        if epoch == 20:
            journal.add("start", epoch=18.5, resumed_from="OUT/checkpoint-18.pth", **about)
            journal.add("bad_images", count=2, name="IMAGES/broken.jpg", reason="truncated: no end")
        journal.add("epoch", epoch=epoch, seconds=2.0, images=1024, skipped=3 * (epoch > 30), bad_images=2)
        probe = {"probe_knn": 50.0 + epoch} if epoch % 4 == 0 else {}
        loss = float("nan") if epoch == 7 else 1 / (epoch + 1)
        lines.append({"train_lr": 1e-3, "train_loss": loss, **probe, "epoch": epoch})
    journal.add("end", text="stopped by SIGTERM", complete=False)
    (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"train_lr": 0.')
    (folder / "reconstructions").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (96, 396, 3), np.uint8)
    for name in ("original", "masked", "epoch-0", "epoch-39", "epoch-90"):  # the last is of an earlier run
        Image.fromarray(pixels).save(folder / "reconstructions" / f"{name}.png")
    (folder / "reconstructions" / "epoch-20.png").write_bytes(b"\x89PNG half")
    for epoch in (0, 20, 39):
        journal.add("pictures", epoch=epoch)
    Image.fromarray(pixels).save(folder / "confusion.png")
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder, folder / "page.html").read_text()


def test_what_the_page_tells(page):
    for text in (
        "stopped: stopped by SIGTERM", "40 of 50", "1.0000 → 0.0250", "512 images/s", "86", "torch", "2.13.0",
        "the process before this one left no word of its end: it was killed",
        "went on from OUT/checkpoint-18.pth, at epoch 19.5",
        "bad image skipped: IMAGES/broken.jpg (truncated: no end)",
        "steps skipped, without a finite loss: 3", "bad images skipped: 2", "IMAGES/&lt;b&gt;",
        "Loss: train_loss from 1 to 0.025", "probe_knn from 50 to 86", "after epoch 40, training loss 0.0250",
    ):  # fmt: skip
        assert text in page, text
    assert page.count("<svg") == 4 and page.count("<img") == 5  # loss, lr, probe, throughput; two and two, confusion
    assert "epoch 91" not in page and "epoch 21" not in page
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", page))
    assert page.count("<table") == page.count("<thead") == page.count("</thead>")


def test_the_page_needs_nothing_from_outside(page):
    assert not re.search(r"<script|<link|<iframe|@import|url\(|https?://|//\w", re.sub(r"base64,[\w+/=]+", "", page))
    assert set(re.findall(r'src="(\w+):', page)) == {"data"}


def test_a_run_of_the_official_code_has_a_page_too(tmp_path, capsys):
    (tmp_path / "log.txt").write_text('{"train_lr": 1e-3, "train_loss": 2.5, "test_loss": 2.0, "test_acc1": 40.0, '
                                      '"test_acc5": 70.0, "epoch": 0, "n_parameters": 5}\n')  # fmt: skip
    assert main(["report", str(tmp_path)]) == 0
    assert f"Wrote {tmp_path / 'report.html'}" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "test_acc5 from 70 to 70" in page and "test_loss from 2 to 2" in page and "n_parameters" not in page
    assert "no run.jsonl" in page


def test_no_run_is_said(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert f"mae-fast report: run_dir: {tmp_path}: no epoch in log.txt and no run.jsonl" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 1
    assert "no such folder; give the output_dir of a run" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_page_of_a_stranger_s_files(tmp_path):
    nasty = ["NaN", "1e999", "-1e29", "1e-320", str(10**400), '"<script>alert(1)</script>"', "[1]", "{}", "null"]
    good = '{"event": "epoch", "time": 2, "epoch": 0, "seconds": 1, "images": 9}'
    keys = [
        "time",
        "epoch",
        "seconds",
        "images",
        "skipped",
        "bad_images",
        "text",
        "parameters",
        "settings",
        "versions",
        "changed",
        "model",
        "name",
    ]
    for kind in ("start", "epoch", "end", "fault", "pictures", "bad_images"):
        events = [f'{{"event": "{kind}", "time": 5, "{key}": {value}}}' for key in keys for value in nasty]
        (tmp_path / "run.jsonl").write_text("\n".join([good, *events, "[" * 10**5, good]))
        lines = [f'{{"epoch": {value}, "train_loss": 1}}' for value in nasty]
        lines += [f'{{"epoch": {i}, "train_loss": {value}, "<i>": {value}}}' for i, value in enumerate(nasty)]
        (tmp_path / "log.txt").write_text("\n".join(lines))
        page = write_report(tmp_path).read_text()
        assert "<script" not in page and "<i>" not in page and page.endswith("</html>\n")


def test_ticks_are_round_and_within():
    assert ticks(0.03, 0.97) == [0.2, 0.4, 0.6, 0.8]
    assert ticks(5, 5) == [5] and ticks(1e-5, 3.1e-4)[0] >= 1e-5
    points = [(float(x), 0.0) for x in range(5000)]
    assert len(thinned(points)) == MOST and thinned(points)[-1] == points[-1]


def browse(*words):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


MEASURE = """
<iframe id="f" width="{width}" height="900" srcdoc="{page}"></iframe><script>
onload = () => {{ const inner = f.contentWindow, page = f.contentDocument;
document.title = JSON.stringify({{
  wide: page.documentElement.scrollWidth, columns: getComputedStyle(page.querySelector('.charts')).gridTemplateColumns,
  images: [...page.images].map(i => i.complete && i.naturalWidth), svgs: [...page.querySelectorAll('figure > svg')]
    .map(s => s.getBoundingClientRect().height), type: Math.min(...[...page.querySelectorAll('svg text')]
    .map(t => t.getBoundingClientRect().height)),
  asked: inner.performance.getEntriesByType('resource').map(r => r.name) }}) }}</script>"""


@in_a_browser
@pytest.mark.parametrize("width, columns", [(390, 1), (1200, 2)])
def test_the_page_fits_a_phone_and_a_desk(page, tmp_path, width, columns):
    around = tmp_path / "around.html"
    around.write_text(MEASURE.format(width=width, page=escape(page)))
    dumped = browse("--virtual-time-budget=5000", "--dump-dom", around.as_uri())
    found = json.loads(re.search(r"<title>(\{.*?\})</title>", dumped)[1])
    assert found["wide"] <= width, "scrolls sideways"
    assert len(found["columns"].split()) == columns
    assert len(found["images"]) == 5 and all(found["images"])
    assert len(found["svgs"]) == 4 and min(found["svgs"]) > 150
    assert found["type"] >= 10  # pixels
    assert found["asked"] == []


@in_a_browser
def test_the_page_is_drawn_and_prints(folder, page, tmp_path):
    for width in (390, 1200):
        picture = tmp_path / f"{width}.png"
        browse(f"--window-size={width},1600", f"--screenshot={picture}", (folder / "page.html").as_uri())
        with Image.open(picture) as image:
            assert image.size == (width, 1600)
            colours = {colour for _, colour in image.convert("RGB").getcolors(2**24)}
        assert {(255, 255, 255), (11, 95, 165)} <= colours  # paper, and a line of a chart
    browse(f"--print-to-pdf={tmp_path / 'page.pdf'}", (folder / "page.html").as_uri())
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
