"""Each setting has one range, and flags, --config files and tutorial dictionaries are held to it."""

import math

import pytest
import yaml
from PIL import Image

from mae_fast.cli import main
from mae_fast.config import TINY
from mae_fast.dropin import tutorial
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.recipe import SETTINGS, Pretrain
from mae_fast.setting import Setting

OUTSIDE = [
    (name, value)
    for name, setting in SETTINGS.items()
    if setting.kind in (int, float)
    for value in (
        *([setting.at_least - 1] if math.isfinite(setting.at_least) else []),
        *([setting.above] if math.isfinite(setting.above) else []),
        *([setting.at_most * 2] if math.isfinite(setting.at_most) else []),
        *([math.nan, math.inf] if setting.kind is float else []),
    )
]


def test_every_number_has_a_lower_bound_and_a_default_within():
    for name, setting in SETTINGS.items():
        setting.check(setting.default)
        if setting.kind in (int, float) and name not in ("mean", "value_range"):  # of pixels, which may be below 0
            assert math.isfinite(max(setting.at_least, setting.above)), name
    assert {name: setting.default for name, setting in SETTINGS.items()} == Pretrain().flat()


@pytest.mark.parametrize("name, value", OUTSIDE)
def test_a_number_out_of_range_is_refused_wherever_it_comes_from(tmp_path, capsys, name, value):
    value = int(value) if SETTINGS[name].kind is int else value
    expected = f"{name}: expected {SETTINGS[name].range or 'a finite number'}, got "
    assert main(["pretrain", f"--{name}={value}"]) == 1
    assert f"--{expected}" in capsys.readouterr().err
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({name: value}))
    assert main(["pretrain", "--config", str(file)]) == 1
    assert f"{file}: {expected}" in capsys.readouterr().err
    key = {"input_size": "img_size"}.get(name, name)
    with pytest.raises(ValueError) as error:
        tutorial.recipe_of({key: value})
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "words, message",
    [
        ("reconstruct --checkpoint=/no.pth --images=. --out=o.png", "--checkpoint: /no.pth: No such file"),
        ("convert {checkpoint} /dev/null/x.pth --to=official", "convert: out: /dev/null"),
        ("reconstruct --checkpoint={checkpoint} --images={images} --out=/dev/null/x.png", "--out: /dev/null"),
        ("convert /no.pth o.pth --to=official", "source: /no.pth: No such file"),
        ("data check /no/folder", "path: /no/folder: no such folder"),
        ("data photos /dev/null/x", "folder: /dev/null"),
        ("parity curve /no/a /no/b", "logs: /no/a: No such file"),
        ("parity curve --steps=1 --batch=1 --images=/no/folder", "--images: /no/folder: no such folder"),
    ],
)
def test_an_error_about_a_path_names_the_argument_that_gave_it(tmp_path, capsys, words, message):
    checkpoint = tmp_path / "weights.pth"
    model = MaskedAutoencoderViT(**TINY.kwargs(), img_size=16)
    save_atomic({"model": model.state_dict(), "mae_fast": {"config": layouts.describe(model)}}, checkpoint)
    Image.new("RGB", (16, 16)).save(tmp_path / "image.png")
    assert main(words.format(checkpoint=checkpoint, images=tmp_path / "image.png").split()) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["reconstruct --limit", "convert a b --to=hf --img_size", "parity --batch", "parity curve --steps"],
)
def test_a_count_below_one_is_refused_by_name(capsys, words):
    with pytest.raises(SystemExit):
        main([*words.split(), "0"])
    assert f"argument {words.split()[-1]}: expected at least 1, got 0" in capsys.readouterr().err


def test_an_error_names_no_flag_that_the_command_has_not(tmp_path, capsys):
    """`model` is a flag of pretrain, and an argument of the library."""
    model = MaskedAutoencoderViT(**TINY.kwargs(), img_size=16)
    state = {key: value for key, value in model.state_dict().items() if not layouts.is_decoder_key(key)}
    save_atomic({"model": state, "mae_fast": {"config": layouts.describe(model)}}, tmp_path / "encoder.pth")
    Image.new("RGB", (16, 16)).save(tmp_path / "image.png")
    words = f"reconstruct --checkpoint={tmp_path}/encoder.pth --images={tmp_path}/image.png --out={tmp_path}/o.png"
    with pytest.warns(UserWarning, match="encoder only"):
        assert main(words.split()) == 1
    assert "mae-fast reconstruct: model: this one was loaded from an encoder-only" in capsys.readouterr().err


def test_a_setting_of_several_numbers():
    setting = Setting(int, 224, "", True, at_least=1, several=True)
    assert setting.read([32, "48"]) == (32, 48) and setting.read([32]) == setting.read("32") == 32
    setting.check((32, 48))
    with pytest.raises(ValueError, match="expected at least 1, got 0"):
        setting.check((32, 0))
    with pytest.raises(ValueError, match="got \\(\\)"):
        setting.check(())
    with pytest.raises(ValueError, match="int"):
        setting.read([32, "wide"])
