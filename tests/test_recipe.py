"""Each setting has one range, and flags, --config files and tutorial dictionaries are held to it."""

import math

import pytest
import yaml

from mae_fast import tutorial
from mae_fast.cli import main
from mae_fast.recipe import SETTINGS, Pretrain

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
        if setting.kind in (int, float):
            assert math.isfinite(max(setting.at_least, setting.above)), name
    assert {name: setting.default for name, setting in SETTINGS.items()} == vars(Pretrain())


@pytest.mark.parametrize("name, value", OUTSIDE)
def test_a_number_out_of_range_is_refused_wherever_it_comes_from(tmp_path, capsys, name, value):
    value = int(value) if SETTINGS[name].kind is int else value
    expected = f"{name}: expected {SETTINGS[name].range}, got "
    assert main(["pretrain", f"--{name}={value}"]) == 1
    assert f"--{expected}" in capsys.readouterr().err
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({name: value}))
    assert main(["pretrain", "--config", str(file)]) == 1
    assert f"{file}: {expected}" in capsys.readouterr().err
    key = {"input_size": "img_size"}.get(name, name)
    with pytest.raises(ValueError) as error:
        tutorial.arguments({key: value})
    assert expected in str(error.value)
