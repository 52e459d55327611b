"""Configurations as YAML's plain values, and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from recon3d.errors import UserError, require

T = TypeVar("T")


def to_plain(config: Any) -> Any:
    """A configuration as nested dicts of YAML's own types."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, tuple):
        return [to_plain(value) for value in config]
    return config


def from_plain(kind: type[T], values: Any, where: str, base: T | None = None) -> T:
    """Build a configuration from nested dicts. ``where`` names the file in error messages.

    What is left out is as in ``base``, or as the class has it; so within a section it is as the default section has it.

    Raises:
        UserError: unknown key, value of the wrong type, or values that contradict.
    """
    require(isinstance(values, dict), f"{where}: expected a mapping for {kind.__name__}, found {values!r}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for key in values:
        require(key in fields, f"{where}: unknown key {key!r} (known: {', '.join(sorted(fields))})")
    made = {}
    for key, value in values.items():
        default = fields[key].default if base is None else getattr(base, key)
        if dataclasses.is_dataclass(hints[key]) and isinstance(default, hints[key]):
            made[key] = from_plain(hints[key], value, f"{where}: {key}", default)
        else:
            made[key] = _coerce(hints[key], value, f"{where}: {key}")
    missing = [
        f.name
        for f in fields.values()
        if base is None
        and f.name not in made
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    require(not missing, f"{where}: {', '.join(missing)} missing")
    try:
        return kind(**made) if base is None else dataclasses.replace(base, **made)  # type: ignore[type-var]
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        known = any(type(value) is type(arg) and value == arg for arg in args)
        require(known, f"{where}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple and args[-1] is Ellipsis:
        several = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(args[0], v, where) for v in several)
    if origin is tuple:
        require(
            isinstance(value, list | tuple) and len(value) == len(args),
            f"{where}: expected {len(args)} values, found {value!r}",
        )
        return tuple(_coerce(a, v, where) for a, v in zip(args, value, strict=True))
    if hint is Path:
        require("\0" not in str(value), f"{where}: a path cannot hold a null character")
        return Path(str(value))
    if hint is float:
        # YAML 1.1 reads 1e-3 (without a dot) as a string.
        require(not isinstance(value, bool), f"{where}: expected a number, found {value!r}")
        try:
            return float(value)
        except (TypeError, ValueError):
            raise UserError(f"{where}: expected a number, found {value!r}") from None
    if hint is int:
        require(
            isinstance(value, int) and not isinstance(value, bool), f"{where}: expected an integer, found {value!r}"
        )
        return value
    require(isinstance(value, hint), f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        UserError: not there, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    require(isinstance(values, dict), f"{path}: expected a mapping of settings")
    return values
