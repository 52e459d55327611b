"""The table of searches: what is tuned in which field."""

import math

import pytest

from recon3d.config import FieldConfig, HashGridConfig
from recon3d.config.fields import SirenConfig
from recon3d.errors import UserError
from recon3d.tuning.search import SEARCHES, best_of, search_of


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_sets_its_value_and_nothing_else(name):
    search, config = SEARCHES[name], FieldConfig()
    values = search.possible(config)
    assert len(values) >= 5
    assert list(search.values) == sorted(set(search.values))
    for value in values:
        changed = search.apply(config, value)
        assert search.default(changed) == value
        if not search.also:
            assert search.apply(changed, values[0]) == search.apply(config, values[0])
    kind = type(getattr(getattr(config, search.section), search.key))
    assert kind in (type(None), type(values[0]))


def test_published_grids():
    assert SEARCHES["siren"].values == tuple(range(10, 201, 10))
    assert len(SEARCHES["fourier"].values) == 20
    assert len(SEARCHES["finer"].values) == 31
    assert len(SEARCHES["finer_omega"].values) == 20
    assert SEARCHES["siren"].bins == 64
    assert SEARCHES["fourier"].bins == SEARCHES["finer"].bins == SEARCHES["hash_grid"].bins == 128


def test_only_the_first_layer_changes():
    config = FieldConfig(encoder=("identity",), network="siren", siren=SirenConfig(omega=25.0))
    search = search_of(config)
    assert search.default(config) == 25
    changed = search.apply(config, 90.0)
    assert (changed.siren.omega, changed.siren.first_omega) == (25, 90)
    assert search.label == "field.siren.first_omega"


@pytest.mark.parametrize(
    ("encoder", "network", "section"),
    [
        (("identity",), "siren", "siren"),
        (("identity",), "finer", "finer"),
        (("fourier",), "relu", "fourier"),
        (("frequency",), "siren", "frequency"),
        (("hash_grid", "chebyshev"), "fusion", "hash_grid"),
        (("chebyshev",), "fusion", "chebyshev"),
        (("identity",), "mfn", "mfn"),
    ],
)
def test_encoders_go_first(encoder, network, section):
    assert search_of(FieldConfig(encoder=encoder, network=network)).section == section


def test_another_search_by_name():
    finer = FieldConfig(encoder=("identity",), network="finer")
    changed = search_of(finer, "finer_omega").apply(finer, 50.0)
    assert (changed.finer.first_omega, changed.finer.first_bias) == (50, 0)
    chained = FieldConfig(encoder=("frequency",), network="siren")
    assert search_of(chained, "siren").section == "siren"


def test_values_that_contradict_are_left_out():
    config = FieldConfig(hash_grid=HashGridConfig(coarsest=100, finest=500))
    assert min(search_of(config).possible(config)) == 128


@pytest.mark.parametrize(
    ("field", "name", "told"),
    [
        (FieldConfig(encoder=("identity",), network="relu"), None, "no frequency to tune"),
        (FieldConfig(encoder=("identity",), network="siren"), "fourier", "without fourier"),
        (FieldConfig(), "omega", "no search 'omega'"),
    ],
)
def test_refused(field, name, told):
    with pytest.raises(UserError, match=told):
        search_of(field, name)


def test_best_is_the_first_of_the_smallest():
    assert best_of({1.0: 3.0, 2.0: 1.0, 3.0: 1.0, 4.0: math.inf}) == 2


@pytest.mark.parametrize("distances", [{1.0: math.inf}, {1.0: 4.61, 2.0: 4.64, 3.0: 4.59}])
def test_nothing_to_choose_by(distances):
    with pytest.raises(UserError, match="leave the setting as it is"):
        best_of(distances)
