"""Error maps: every patch judged where it was not seen, and what they say of pictures that are known."""

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mae_fast.cli import main
from mae_fast.downstream.anomaly import auroc
from mae_fast.downstream.error_map import complementary_noise, error_map
from mae_fast.files.atomic import save_atomic
from mae_fast.files.checkpoint import load_file


@pytest.mark.parametrize(("patches", "ratio", "masks"), [(16, 0.75, 4), (10, 0.7, 4), (16, 0.5, 2), (10, 0.2, 5)])
def test_every_patch_is_hidden_and_the_masks_share_them_out(patches, ratio, masks):
    kept = int(patches * (1 - ratio))
    shown = torch.zeros(masks, 3, patches)
    for number, noise in enumerate(complementary_noise(3, patches, ratio, torch.Generator().manual_seed(0))):
        shown[number].scatter_(1, noise.argsort(1)[:, :kept], 1)
    assert number == masks - 1 and (shown.sum(0) < masks).all()  # hidden at least once
    assert ratio < 0.5 or (shown.sum(0) >= 1).all()  # and shown
    assert patches % kept or ratio < 0.5 or (shown.sum(0) == 1).all()
    assert not shown[0, 0].equal(shown[0, 1])  # by other patches in other images


def test_a_mask_that_hides_nothing_or_everything_is_refused(model):
    for ratio in (0, 1):
        with pytest.raises(ValueError, match="mask_ratio"):
            error_map(model, torch.zeros(1, 32, 32, 3, dtype=torch.uint8), ratio)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_map_is_the_loss_of_hidden_patches(model, norm_pix_loss):
    imgs = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    model.norm_pix_loss = norm_pix_loss
    found = error_map(model, imgs, 0.75, torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (model.mean, model.std))
    float_imgs, (sums, counts) = (imgs.permute(0, 3, 1, 2) / 255 - mean) / std, torch.zeros(2, 3, 16)
    for noise in complementary_noise(3, 16, 0.75, torch.Generator().manual_seed(1)):
        _, pred, mask = model(imgs, 0.75, noise)
        for patch in range(16):  # one patch after another, by the model's own loss of every image alone
            for image in range(3):
                if mask[image, patch]:
                    one = F.one_hot(torch.tensor([patch]), 16).float()
                    sums[image, patch] += model.forward_loss(float_imgs[[image]], pred[[image]], one).detach()
                    counts[image, patch] += 1
    assert (counts == 3).all()
    torch.testing.assert_close(found, (sums / counts).view(3, 4, 4), rtol=1e-4, atol=1e-5)


def test_auroc_of_scores_that_are_known():
    assert auroc([False, True, False, True], [0.1, 0.4, 0.35, 0.8]) == 1
    assert auroc([False, True, False, True], [0.1, 0.3, 0.35, 0.8]) == 0.75
    assert auroc([True, True], [1, 2]) is None


def smooth(rng):
    """A picture (32, 32, 3), float, of one colour that changes from left to right."""
    return np.linspace(*rng.integers(60, 200, (2, 3)), 32)[None] * np.ones((32, 1, 1))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Smooth pictures, `good`, and some with a noisy square, which no model guesses; its place as mask pictures."""
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for kind in ("test/good", "test/noisy", "ground_truth/noisy"):
        (folder / kind).mkdir(parents=True)
    for number in range(6):
        Image.fromarray(smooth(rng).astype(np.uint8)).save(folder / f"test/good/{number}.png")
        picture, mask, top = smooth(rng), np.zeros((32, 32), np.uint8), 8 * (number % 4)
        picture[top : top + 8, 8:16], mask[top : top + 8, 8:16] = rng.integers(0, 256, (8, 8, 3)), 255
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"test/noisy/{number}.png")
        Image.fromarray(mask).save(folder / f"ground_truth/noisy/{number}_mask.png")
    return folder


@pytest.fixture
def trained(model, checkpoint):
    """The checkpoint after a hundred steps on smooth pictures."""
    rng, optimizer = np.random.default_rng(1), torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        imgs = torch.from_numpy(np.stack([smooth(rng) for _ in range(8)]).astype(np.uint8))
        model.training_loss(imgs).backward()
        optimizer.step()
    content = load_file(checkpoint)
    save_atomic(content | {"model": model.state_dict()}, checkpoint)
    return checkpoint


def test_the_command_scores_pictures_and_pixels(parts, trained, tmp_path, capsys):
    words = f"reconstruct --error_map --checkpoint {trained} --out {tmp_path}/errors.png --device cpu --batch_size 5"
    assert main([*words.split(), "--images", f"{parts}/test", "--masks", f"{parts}/ground_truth"]) == 0
    said = capsys.readouterr().out
    pictures, pixels = (float(line.split(": ")[1]) for line in said.splitlines() if "max" in line or "pixels" in line)
    assert pictures > 0.9 and pixels > 0.8, said
    rows = list(csv.DictReader((tmp_path / "errors.csv").open()))
    assert [row["name"] for row in rows] == [f"{kind}/{i}.png" for kind in ("good", "noisy") for i in range(6)]
    assert [row["unusual"] for row in rows] == ["0"] * 6 + ["1"] * 6
    with Image.open(tmp_path / "errors.png") as picture:
        assert picture.width > 500 and picture.height > 1500  # eight pictures and three columns
    again = (tmp_path / "errors.csv").read_text()
    assert main([*words.split(), "--images", f"{parts}/test"]) == 0  # by the names of class folders alone
    assert "pixels" not in capsys.readouterr().out and (tmp_path / "errors.csv").read_text() == again


def test_masks_that_are_missing_are_said(parts, checkpoint, tmp_path, capsys):
    words = f"reconstruct --checkpoint {checkpoint} --images {parts}/test --out {tmp_path}/e.png --device cpu".split()
    assert main([*words, "--masks", str(parts)]) == 1 and "--masks: is for an error map" in capsys.readouterr().err
    words.append("--error_map")
    assert main([*words, "--masks", str(parts)]) == 1
    assert "--masks: none for" in capsys.readouterr().err
    assert main([*words, "--masks", f"{parts}/none"]) == 1 and "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "e.png").exists()
