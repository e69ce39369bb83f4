"""Reconstructions and run.jsonl, which a run keeps for its report page."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from mae_fast.config import TINY
from mae_fast.downstream.report import write_report
from mae_fast.files.appended import Appended, read_lines
from mae_fast.files.checkpoint import load_file
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.train import pictures
from mae_fast.train.assemble import assemble
from mae_fast.train.drawable import GREY
from mae_fast.train.journal import Journal, read_journal
from mae_fast.train.loop import train
from mae_fast.train.pictures import KeptPictures, chosen, predict
from tests.train.runs import flags, parse, run, same


def test_a_run_keeps_pictures_and_tells_what_it_is(whole_run):
    out, _ = whole_run
    kept = {path.name for path in (out / "reconstructions").iterdir()}
    assert {"original.png", "masked.png", "epoch-0.png", "epoch-2.png"} <= kept
    with Image.open(out / "reconstructions" / "epoch-2.png") as strip:
        assert strip.size == (4 * 32 + 3 * pictures.GAP, 32)
    events = read_journal(out)
    start, end = events[0], events[-1]
    assert start["event"] == "start" and start["versions"]["torch"] == torch.__version__
    assert start["settings"]["batch_size"] == 4 and "batch_size" in start["changed"]
    assert end["event"] == "end" and end["complete"]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [0, 1, 2]
    assert all(event["images"] == 20 and event["seconds"] > 0 for event in epochs)
    for line in (out / "log.txt").read_text().splitlines():
        assert json.loads(line).keys() == {"train_lr", "train_loss", "epoch"}  # the official layout
    page = write_report(out, out.parent / "page.html").read_text()
    assert "complete" in page and "after epoch 3, training loss" in page and "batch_size" in page


def test_pictures_leave_the_run_as_it_is(photos, whole_run, tmp_path, monkeypatch):
    monkeypatch.setattr(KeptPictures, "keep", lambda *_: None)
    without = run(photos, tmp_path)
    assert not (tmp_path / "reconstructions").exists()
    whole = load_file(whole_run[0] / "checkpoint-2.pth")
    assert same(without["model"], whole["model"]) and same(without["mae_fast"]["rng"], whole["mae_fast"]["rng"])


def test_a_disk_that_takes_no_pictures_ends_no_run(photos, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "write_strip", full)
    train(assemble(parse(flags(photos, tmp_path, "--epochs=1"))))
    told = "no reconstructions after epoch 1: [Errno 28] No space left on device"
    assert f"{told}. The run goes on" in capsys.readouterr().err
    events = read_journal(tmp_path)
    assert [event["event"] for event in events] == ["start", "fault", "epoch", "end"] and events[1]["text"] == told
    assert (tmp_path / "checkpoint-0.pth").is_file()


def test_a_bounded_number_in_a_bounded_time():
    assert len(chosen(800)) == pictures.TIMES and {0, 799} <= chosen(800)
    assert chosen(1) == {0} and chosen(3) == {0, 1, 2}
    callback = KeptPictures(None)
    callback.began -= 1000
    assert [epoch for epoch in range(800) if callback.is_time(epoch, 800)] == sorted(chosen(800))
    callback.spent = 20.0  # of 1000 seconds: more than a hundredth
    assert [epoch for epoch in range(800) if callback.is_time(epoch, 800)] == [0, 799]


@pytest.mark.parametrize("channels, kind, norm_pix", [(3, "uint8", True), (5, "float", False), (1, "uint8", False)])
def test_visible_patches_are_the_pictures_own(channels, kind, norm_pix):
    torch.manual_seed(0)
    model = MaskedAutoencoderViT(**TINY.kwargs(), img_size=(16, 32), in_chans=channels, norm_pix_loss=norm_pix).train()
    of_run = SimpleNamespace(
        model=model, resolved=SimpleNamespace(dtype="fp32"), recipe=SimpleNamespace(mask_ratio=0.5)
    )
    imgs = torch.randint(0, 256, (2, 16, 32, channels), dtype=torch.uint8)
    shown = imgs.permute(0, 3, 1, 2) / 255
    if kind == "float":
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (model.mean, model.std))
        imgs = (shown - mean) / std
    state = torch.get_rng_state()
    original, masked, predicted = predict(of_run, imgs)
    again = predict(of_run, imgs)[2]
    assert model.training and torch.equal(torch.get_rng_state(), state) and torch.equal(again, predicted)
    assert original.shape == masked.shape == predicted.shape == (2, 16, 32, min(channels, 3))
    if channels in (1, 3):
        assert torch.allclose(original, shown.permute(0, 2, 3, 1), atol=1e-5)
    else:  # stretched
        assert (original == 0).flatten(1, 2).any(1).all()
    visible = (masked != GREY).any(-1, keepdim=True).expand_as(original)
    assert 0.4 < visible.float().mean() < 0.6
    assert torch.allclose(predicted[visible], original[visible], atol=1e-5)
    assert not torch.allclose(predicted[~visible], original[~visible], atol=1e-2)


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"event": "start"}\n{"event": "ep')
    file = Appended(path)
    file.add({"event": "end"})
    file.write()
    assert read_lines(path) == [{"event": "start"}, {"event": "end"}]
    Journal(tmp_path, again=True).add("start")
    assert len(read_journal(tmp_path)) == 3
    Journal(tmp_path, again=False).add("start")
    assert len(read_journal(tmp_path)) == 1
