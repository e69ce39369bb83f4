"""The tutorials' API: the names and shapes their code relies on, over the package's own training and pictures."""

import pickle

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import mae_fast
from mae_fast.dropin import tutorial

CONFIG = """
model_name: mae
img_size: 32
patch_size: 8
embed_dim: 48
depth: 2
num_heads: 4
decoder_embed_dim: 32
decoder_depth: 1
decoder_num_heads: 2
norm_pix_loss: true
mask_ratio: 0.5
batch_size: 4
epochs: 2
dataset: {name: custom, root: DATA, use_validation: true, num_workers: 0, val_batch_size: 3}
optimizer: {name: AdamW, lr: 1e-3, weight_decay: 0.05, betas: [0.9, 0.95]}
scheduler: {name: cosine, min_lr: 0.0}
output_dir: OUT
loader: pillow
"""


@pytest.fixture
def config(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 5)):
        folder = tmp_path / "data" / split / "photos"
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 255, (40, 48, 3), np.uint8)).save(folder / f"{i}.png")
    text = CONFIG.replace("DATA", str(tmp_path / "data")).replace("OUT", str(tmp_path / "out"))
    return yaml.safe_load(text)


def test_train_and_plot(config, tmp_path):
    trainer = mae_fast.MAETrainer(config, torch.device("cpu"))
    before = trainer.model.decoder_pred.weight.clone()
    trainer.train()
    assert not torch.equal(trainer.model.decoder_pred.weight, before)
    assert trainer.plot_training_curves() == tmp_path / "out" / "training_curves.png"
    assert Image.open(tmp_path / "out" / "training_curves.png").width > 100
    again = mae_fast.load_pretrained_mae(tmp_path / "out" / "checkpoint-1.pth")
    assert isinstance(again, mae_fast.MAE)
    assert all(torch.equal(p, again.state_dict()[k]) for k, p in trainer.model.state_dict().items())


def test_what_a_configuration_means(config):
    recipe = mae_fast.MAETrainer(config, "cpu").recipe
    data, schedule = recipe.data, recipe.schedule
    assert (recipe.opt, schedule.lr, schedule.sched, schedule.epochs) == ("adamw", 1e-3, "cosine", 2)
    assert (data.batch_size, data.input_size, schedule.warmup_epochs) == (4, 32, 0.1)
    assert recipe.norm_pix_loss is True and recipe.mask_ratio == 0.5 and recipe.device == "cpu"
    step = {"dataset": "x", "optimizer": "sgd", "lr": 0.1, "use_amp": False, "warmup_epochs": 3,
            "scheduler": {"name": "step", "step_size": 5, "gamma": 0.5}}  # fmt: skip
    recipe = tutorial.recipe_of(step)
    schedule = recipe.schedule
    assert (recipe.data.data_path, recipe.opt, recipe.dtype) == ("x", "sgd", "fp32")
    assert (schedule.lr, schedule.warmup_epochs, schedule.sched) == (0.1, 3, "step")
    assert (schedule.decay_epochs, schedule.decay_rate) == (5, 0.5)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"embed_dims": 48}, "embed_dims is no setting; embed_dim"),
        ({"optimizer": {"name": "lamb"}}, "optimizer.name: expected adamw, sgd, got 'lamb'"),
        ({"optimizer": {"betas": [0.9, 0.999]}}, r"optimizer.betas: expected \[0.9, 0.95\]"),
        ({"scheduler": "exponential"}, "scheduler: expected cosine, step, plateau"),
        ({"lr": "fast"}, "lr: expected float, got 'fast'"),
        ({"mask_ratio": 1.5}, "mask_ratio: expected more than 0, at most 1, got 1.5"),
        ({"optimizer": {"weight_decay": float("nan")}}, "weight_decay: expected at least 0, got nan"),
        ({"warmup_epochs": -1}, "warmup_epochs: expected at least 0, got -1"),
        ({"lr": 0.1, "scheduler": {"min_lr": 1}}, "min_lr: 1 is above lr 0.1"),
    ],
)
def test_wrong_configurations(wrong, message):
    with pytest.raises(ValueError, match=message):
        mae_fast.MAETrainer(wrong, "cpu")


def test_model(config):
    model, imgs = mae_fast.MAE(config), torch.randn(2, 3, 32, 32)
    loss, pred, mask = model(imgs, mask_ratio=0.75)
    assert (loss.shape, pred.shape, mask.shape) == ((), (2, 16, 192), (2, 16))
    latent, mask, ids_restore = model.encoder(imgs, mask_ratio=0.0)
    assert latent.shape == (2, 17, 48) and not mask.any()
    image_order = latent[:, 1:].gather(1, ids_restore.unsqueeze(-1).expand(-1, -1, 48))
    assert torch.allclose(torch.cat([latent[:, :1], image_order], 1), model.encode(imgs), atol=1e-5)
    assert model.config["embed_dim"] == 48
    assert model.unpatchify(pred).shape == imgs.shape


def test_loaders_and_pictures(config, tmp_path):
    train, val = mae_fast.create_mae_dataloaders(config)
    assert (len(train), len(val)) == (2, 2)
    first, second = ([imgs for imgs, _ in train] for _ in range(2))
    assert first[0].shape == (4, 3, 32, 32) and first[0].dtype == torch.float32
    assert not torch.equal(first[0], second[0])  # another epoch
    (imgs, labels), _ = val
    assert imgs.shape == (3, 3, 32, 32) and labels.tolist() == [0, 0, 0]
    assert mae_fast.create_mae_dataloaders(config | {"dataset": config["dataset"]["root"]})[1] is None
    model = mae_fast.MAE(config)
    path = mae_fast.visualize_mae_reconstruction(model, val, "cpu", num_samples=2, path=tmp_path / "a.png")
    assert path.is_file()
    assert mae_fast.visualize_mae_reconstruction(model, imgs, path=tmp_path / "b.png").is_file()


def test_transforms():
    pixels = np.zeros((70, 140, 3), np.uint8)
    pixels[:, 35:105] = 255
    image = Image.fromarray(pixels)
    central = mae_fast.get_mae_transforms(56, is_training=False)(image)
    white = (1 - torch.tensor(mae_fast.config.IMAGENET_MEAN)) / torch.tensor(mae_fast.config.IMAGENET_STD)
    assert torch.allclose(central[:, :, 2:-2], white.view(3, 1, 1).expand(-1, 56, 52), atol=1e-5)
    augment = mae_fast.get_mae_transforms(56)
    torch.manual_seed(0)
    one, other = augment(image), augment(image)
    torch.manual_seed(0)
    assert one.shape == (3, 56, 56)
    assert torch.equal(augment(image), one)
    assert not torch.equal(one, other)


def test_hub_names(monkeypatch):
    asked = []
    monkeypatch.setattr(
        tutorial, "load_pretrained", lambda path: asked.append(path) or mae_fast.MAE({"depth": 1, "embed_dim": 48})
    )
    mae_fast.load_pretrained_mae("mae-large")
    assert asked == ["facebook/vit-mae-large"]


def test_augmentation_levels():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8))

    def draw(transform):
        torch.manual_seed(3)
        return transform(image)

    light, medium, strong = (
        draw(pickle.loads(pickle.dumps(mae_fast.get_augmentation_transforms(level, 32))))
        for level in ("light", "medium", "strong")
    )
    assert light.shape == (3, 32, 32) and light.dtype == torch.float32
    assert torch.equal(light, draw(mae_fast.get_mae_transforms(32)))
    assert 0 < (medium - light).abs().mean() < (strong - light).abs().mean()  # the same crop, other colours
    with pytest.raises(ValueError, match="level: expected one of light, medium, strong, got 'heavy'"):
        mae_fast.get_augmentation_transforms("heavy")
