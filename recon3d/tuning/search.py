"""What is tuned in each kind of field: the setting that sets its frequencies before training, and the values tried."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from recon3d.config import FieldConfig
from recon3d.errors import UserError

F = TypeVar("F", bound=FieldConfig)
Value = float | int
ALIKE = 0.03
"""Distances that differ by less, of the largest, are noise of the draws."""


@dataclass(frozen=True)
class Search:
    """One setting ``key`` of a field's ``section`` and the values tried; ``also`` are settings that go with it.

    ``stands_in`` names the setting whose value counts where this one is left open. ``bins`` is the recommended number
    of them in a spectrum.
    """

    section: str
    key: str
    values: tuple[Value, ...]
    bins: int = 128
    stands_in: str | None = None
    also: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"field.{self.section}.{self.key}"

    def apply(self, config: F, value: Value) -> F:
        """The configuration with ``value``.

        Raises:
            UserError: a value that contradicts the rest.
        """
        section = dataclasses.replace(getattr(config, self.section), **{self.key: value}, **self.also)
        return dataclasses.replace(config, **{self.section: section})

    def default(self, config: FieldConfig) -> Value | None:
        """The value a configuration has; None where it is left to the network."""
        section = getattr(config, self.section)
        value = getattr(section, self.key)
        return getattr(section, self.stands_in) if value is None and self.stands_in else value

    def possible(self, config: FieldConfig) -> list[Value]:
        """The values that the rest of the configuration allows."""
        return [value for value in self.values if _allowed(self, config, value)]


def _allowed(search: Search, config: FieldConfig, value: Value) -> bool:
    try:
        search.apply(config, value)
    except UserError:
        return False
    return True


_TENS = tuple(float(value) for value in range(10, 201, 10))
_HALF_OCTAVES = tuple(round(2 ** (exponent / 2)) for exponent in range(8, 27))  # 16 to 8192


SEARCHES: dict[str, Search] = {
    # Published: the first layer only, hidden layers keep theirs.
    "siren": Search("siren", "first_omega", _TENS, 64, "omega"),
    "finer": Search("finer", "first_bias", tuple(float(value) for value in range(31))),
    "finer_omega": Search("finer", "first_omega", _TENS, 128, "omega", {"first_bias": 0.0}),
    "fourier": Search("fourier", "sigma", tuple(float(value) for value in range(1, 21))),
    "hash_grid": Search("hash_grid", "finest", _HALF_OCTAVES),
    # Ours.
    "spder": Search("spder", "first_omega", _TENS, 64, "omega"),
    "incode": Search("incode", "first_omega", _TENS, 64, "omega"),
    "wire": Search("wire", "first_omega", tuple(float(value) for value in range(4, 81, 4)), 128, "omega"),
    "gauss": Search("gauss", "scale", tuple(float(value) for value in range(5, 101, 5))),
    "mfn": Search("mfn", "input_scale", tuple(float(round(2 ** (e / 2))) for e in range(6, 21))),
    "chebyshev": Search("chebyshev", "degree", (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)),
    "frequency": Search("frequency", "levels", tuple(range(1, 15))),
}
"""By encoder or network. The encoder is tuned where it has frequencies of its own, else the network."""


def search_of(config: FieldConfig, name: str | None = None) -> Search:
    """The search for a field; ``name`` picks another of :data:`SEARCHES` that its field has.

    Raises:
        UserError: nothing in the field has a frequency to tune.
    """
    parts = [*config.encoder, config.network]
    if name is None:
        name = next((part for part in parts if part in SEARCHES), None)
    if name is None:
        raise UserError(
            f"tune: field.encoder {' '.join(config.encoder)} with field.network {config.network} has no frequency to "
            f"tune: choose one of {', '.join(part for part in SEARCHES if part not in _VARIANTS)}"
        )
    if name not in SEARCHES:
        raise UserError(f"tune: no search {name!r} (there are: {', '.join(SEARCHES)})")
    if SEARCHES[name].section not in parts:
        raise UserError(f"tune: search {name}: the field is {' '.join(parts)}, without {SEARCHES[name].section}")
    return SEARCHES[name]


_VARIANTS = tuple(name for name, search in SEARCHES.items() if name != search.section)


def best_of(distances: Mapping[Value, float]) -> Value:
    """The value of the smallest distance, the first of equals.

    Raises:
        UserError: all are alike.
    """
    value = min(distances, key=lambda value: distances[value])
    finite = [found for found in distances.values() if math.isfinite(found)]
    if not finite or max(finite) - min(finite) < ALIKE * max(finite):
        raise UserError(
            "tune: before training the field looks the same whatever is tried"
            + (f" (distances {min(finite):.3g} to {max(finite):.3g})" if finite else "")
            + ", so there is nothing to choose by: leave the setting as it is"
        )
    return value
