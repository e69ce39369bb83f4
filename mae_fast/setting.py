"""A setting: the type, range, default and help of one field of a recipe, and the dataclasses that hold to them."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self


@dataclass(frozen=True)
class Setting:
    """What holds for the values of one field. kind: int, float, str or bool; words: values allowed besides.

    at_least, above, at_most: bounds of a number, `above` excluded. several: a tuple of such values fits too, each held
    to all this. official: a flag of the official main_pretrain.py.
    """

    kind: type
    default: Any
    help: str
    official: bool
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    several: bool = False

    def read(self, value: Any) -> Any:
        """A value as text or YAML gives it -> the same in the setting's type, not yet held to its range.

        None fits where it is the default. Raises ValueError saying which values fit.
        """
        if self.several and isinstance(value, list | tuple) and value:
            values = tuple(self.read(one) for one in value)
            return values if len(values) > 1 else values[0]
        if value in self.words or (value is None and self.default is None):
            return value
        try:
            if self.kind is int and isinstance(value, float) and value.is_integer():
                value = int(value)
            if self.kind is bool:
                fits = isinstance(value, bool)
            else:
                value = self.kind(str(value)) if value is not None and not isinstance(value, bool) else None
                fits = value is not None and (not self.choices or value in self.choices)
        except ValueError:
            fits = False
        if not fits:
            expected = ", ".join(self.choices) or ("true or false" if self.kind is bool else self.kind.__name__)
            raise ValueError(expected)
        return value

    def check(self, value: Any) -> None:
        """ValueError saying what was expected of a value of another type, out of range, or not finite."""
        if self.several and isinstance(value, tuple) and value:
            for one in value:
                self.check(one)
            return
        if value in self.words or (value is None and self.default is None):
            return
        if self.choices and value not in self.choices:
            raise ValueError(f"expected one of {', '.join(self.choices)}, got {value!r}")
        number = self.kind in (int, float)
        kinds = (int, float) if self.kind is float else self.kind
        if not isinstance(value, kinds) or (number and isinstance(value, bool)):
            raise ValueError(f"expected {' or '.join([self.kind.__name__, *self.words])}, got {value!r}")
        if number and not (math.isfinite(value) and self.at_least <= value <= self.at_most and value > self.above):
            raise ValueError(f"expected {self.range or 'a finite number'}, got {value}")

    @property
    def range(self) -> str:
        """The bounds in words, empty of what has none."""
        bounds = [
            f"{text} {bound}"
            for text, bound in (("more than", self.above), ("at least", self.at_least), ("at most", self.at_most))
            if math.isfinite(bound)
        ]
        return ", ".join(bounds)

    def describe(self) -> str:
        """A line for --help: meaning, range, default."""
        default = "" if self.default in (None, "") or self.kind is bool else f"default {self.default}"
        return "; ".join(filter(None, [self.help, self.range, default]))


def official(kind: type, default: Any, help: str = "", **limits) -> Any:
    """A flag of the official main_pretrain.py: same name, same default."""
    return dataclasses.field(default=default, metadata={"setting": Setting(kind, default, help, True, **limits)})


def ours(kind: type, default: Any, help: str = "", **limits) -> Any:
    return dataclasses.field(default=default, metadata={"setting": Setting(kind, default, help, False, **limits)})


def as_in(kind: type, name: str, **changes) -> Any:
    """The setting of another dataclass again, but for some of what holds for it."""
    setting = dataclasses.replace(settings_of(kind)[name], **changes)
    return dataclasses.field(default=setting.default, metadata={"setting": setting})


class Checked:
    """A dataclass of settings. ValueError naming the first one whose value cannot work."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if setting := field.metadata.get("setting"):
                try:
                    setting.check(getattr(self, field.name))
                except ValueError as error:
                    raise ValueError(f"{field.name}: {error}") from None


def settings_of(recipe: type) -> dict[str, Setting]:
    """The settings that are fields of a dataclass, without those of its parts."""
    fields = dataclasses.fields(recipe)
    return {field.name: field.metadata["setting"] for field in fields if "setting" in field.metadata}


class Recipe(Checked):
    """A frozen dataclass of settings, some of them in dataclasses that are its parts. PARTS: those, by their fields."""

    PARTS: ClassVar[dict[str, type]] = {}

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """Every setting by its name, those of the parts first."""
        return {name: setting for kind in (*cls.PARTS.values(), cls) for name, setting in settings_of(kind).items()}

    @classmethod
    def of(cls, **settings) -> Self:
        """A recipe from settings by their names alone, as flags and YAML give them: of(batch_size=64, epochs=400)."""
        parts = {part: {name: settings.pop(name) for name in settings_of(kind) if name in settings}
                 for part, kind in cls.PARTS.items()}  # fmt: skip
        return cls(**{part: cls.PARTS[part](**values) for part, values in parts.items()}, **settings)

    def flat(self) -> dict[str, Any]:
        """{name: value} of every setting: the inverse of `of`."""
        values = {name: getattr(self, name) for name in settings_of(type(self))}
        for part, kind in self.PARTS.items():
            values |= {name: getattr(getattr(self, part), name) for name in settings_of(kind)}
        return values
