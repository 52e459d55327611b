"""Configurations: presets, exact round trips, and what is refused before any data is read."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from recon3d import config as c
from recon3d.config import fields
from recon3d.errors import UserError

DEVICES = ("cpu", "cuda")


def refused(call, *parts):
    """``call`` raises a UserError of one line that holds all ``parts``."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
    return message


def make(**values):
    return c.NerfConfig(data=Path("scene"), **{"steps": 10, **values})


# --- presets ---


def test_the_documented_presets_are_there():
    assert {"nerf", "nerf_lego"} <= set(c.preset_names())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", c.preset_names())
def test_presets_load_on_both_devices(name, device):
    config = c.load_preset(name).config(device, data=Path("scene"))
    assert isinstance(config, c.TASKS[c.task_of(config)])
    assert config.data == Path("scene")
    assert config.steps or config.max_seconds
    again = c.from_plain(type(config), yaml.safe_load(yaml.safe_dump(c.to_plain(config))), "x")
    assert again == config


def test_device_sections_differ():
    preset = c.load_preset("nerf")
    small, large = (preset.config(device, Path("scene")) for device in DEVICES)
    assert small.samples < large.samples
    assert small.field.hash_grid.log2_size < large.field.hash_grid.log2_size


def test_base_is_inherited_deeply(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: nerf\nbackground: white\nfield: {color_depth: 3}\ndevices: {cpu: {field: {hash_grid: {levels: 5}}}}\n"
    )
    base = c.load_preset("nerf").config("cpu", Path("scene"))
    mine = c.load_preset(str(path)).config("cpu", Path("scene"))
    assert mine.background == "white"
    assert mine.field.color_depth == 3
    assert mine.field.hash_grid == dataclasses.replace(base.field.hash_grid, levels=5)
    assert mine.head == base.head
    assert mine.samples == base.samples
    # The device's section is nearer than what stands above it.
    path.write_text("base: nerf\nsamples: 1024\n")
    assert c.load_preset(str(path)).config("cpu", Path("scene")).samples == base.samples


def test_lego_is_nerf_with_the_published_protocol():
    lego = c.load_preset("nerf_lego").config("cuda", Path("scene"))
    assert (lego.downscale, lego.eval_background) == (1, "white")
    assert lego.field == c.load_preset("nerf").config("cuda", Path("scene")).field


def test_a_preset_may_name_its_data(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("task: nerf\nsteps: 5\ndata: here/scene\n")
    assert c.load_preset(str(path)).config("cpu", Path("other")).data == Path("here/scene")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("task: nerf\nsteps: 5\nlos: mse\n", ["los", "unknown", "loss"]),
        ("task: nerf\nsteps: 5\nfield: {hash_grid: {levles: 3}}\n", ["field", "hash_grid", "levles"]),
        ("task: nerf\nsteps: many\n", ["steps", "many", "integer"]),
        ("task: nerf\nsteps: 5.5\n", ["steps", "5.5"]),
        ("task: nerf\nsteps: true\n", ["steps", "True"]),
        ("task: nerf\nsteps: 5\nhead: {early_stop: small}\n", ["head", "early_stop", "small", "number"]),
        ("task: nerf\nsteps: 5\nhead: {early_stop: true}\n", ["head", "early_stop", "True"]),
        ("task: nerf\nsteps: 5\nhead: {visual_hull: 1}\n", ["head", "visual_hull", "bool"]),
        ("task: nerf\nsteps: 5\nhead: 7\n", ["head", "7", "mapping"]),
        ("task: nerf\nsteps: 5\nloss: l1\n", ["loss", "l1", "mse", "huber"]),
        ("task: nerf\nsteps: 5\nfield: {hash_grid: {features: true}}\n", ["features", "True"]),
        ("task: nerf\nsteps: 5\noptimizer: {betas: [0.9]}\n", ["optimizer", "betas", "2"]),
        ("task: nerf\nsteps: 5\nname: 3\n", ["name", "3"]),
        ('task: nerf\nsteps: 5\ndata: "a\\0b"\n', ["data", "null"]),
        ("task: nerf\n", ["steps", "max_seconds"]),
        ("task: nerf\nsteps: 5\nfield: {hash_grid: {coarsest: 64, finest: 32}}\n", ["coarsest", "finest", "64", "32"]),
        ("task: nerf\nsteps: 5\ndevices: {cpu: {samples: lots}}\n", ["samples", "lots"]),
        ("task: nerf\nsteps: 5\ndevices: {tpu: {samples: 1}}\n", ["devices", "tpu"]),
        ("task: nerf\nsteps: 5\ndevices: {cpu: 3}\n", ["devices", "cpu", "3"]),
        ("base: nerf\ndevices:\n", ["devices", "None"]),
        ("base: nerf\ndevices: {cpu: }\n", ["devices", "None"]),
        ("task: sculpture\nsteps: 5\n", ["task", "sculpture", "nerf"]),
        ("task: [nerf]\nsteps: 5\n", ["task", "nerf"]),
        ("base: nothing_of_that_name\n", ["nothing_of_that_name"]),
        ("steps: 5\n", ["task"]),
        ("task: nerf\n  steps: [\n", ["YAML"]),
        ("- 1\n- 2\n", ["mapping"]),
        ("", ["mapping"]),
        ("\x00", ["YAML"]),
    ],
)
def test_a_bad_preset_is_told_in_one_line(tmp_path, text, parts):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    expected = [part for part in parts if part != "nothing_of_that_name"]
    message = refused(lambda: c.load_preset(str(path)).config("cpu", Path("scene")), *expected)
    assert "mine.yaml" in message or "nothing_of_that_name" in message


def test_a_preset_that_is_its_own_base_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {path}\nsteps: 5\n")
    refused(lambda: c.load_preset(str(path)), "mine.yaml", "base")


def test_a_base_stands_beside_the_file_that_names_it(tmp_path):
    (tmp_path / "first.yaml").write_text("task: nerf\nsteps: 7\nsamples: 512\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nsamples: 1024\n")
    config = c.load_preset(str(tmp_path / "second.yaml")).config("cpu", Path("scene"))
    assert (config.steps, config.samples) == (7, 1024)


def test_no_preset_of_that_name():
    refused(lambda: c.load_preset("nerv"), "nerv", "nerf_lego")
    refused(lambda: c.load_preset("/nowhere/x.yaml"), "/nowhere/x.yaml")


def test_unreadable_yaml(tmp_path):
    refused(lambda: c.read_yaml(tmp_path / "absent.yaml"), "absent.yaml", "No such file")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    refused(lambda: c.read_yaml(tmp_path / "latin.yaml"), "latin.yaml", "YAML")


# --- contradictions ---


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: make(steps=None), ["steps", "max_seconds"]),
        (lambda: make(steps=0), ["steps is 0"]),
        (lambda: make(max_seconds=-1.0), ["max_seconds"]),
        (lambda: make(max_seconds=float("nan")), ["max_seconds"]),
        (lambda: make(checkpoint_every=0), ["checkpoint_every"]),
        (lambda: make(log_every=0), ["log_every"]),
        (lambda: make(preview_every=-3), ["preview_every", "-3"]),
        (lambda: make(threads=0), ["threads"]),
        (lambda: make(seed=-1), ["seed"]),
        (lambda: make(seed=2**31), ["seed"]),
        (lambda: make(name="a/b"), ["name", "a/b"]),
        (lambda: make(name=".."), ["name"]),
        (lambda: make(name="a\0b"), ["name"]),
        (lambda: make(name=""), ["name"]),
        (lambda: make(downscale=0), ["downscale"]),
        (lambda: make(test_every=1), ["test_every"]),
        (lambda: make(samples=10), ["samples"]),
        (lambda: make(max_rays=1), ["max_rays"]),
        (lambda: c.HashGridConfig(levels=0), ["hash_grid.levels"]),
        (lambda: c.HashGridConfig(log2_size=3), ["hash_grid.log2_size"]),
        (lambda: c.HashGridConfig(coarsest=512, finest=256), ["hash_grid.coarsest", "512", "hash_grid.finest", "256"]),
        (lambda: fields.FrequencyConfig(levels=0), ["frequency.levels"]),
        (lambda: c.RadianceFieldConfig(width=0), ["field.width"]),
        (lambda: c.RadianceFieldConfig(color_depth=0), ["field.color_depth"]),
        (lambda: c.RadianceFieldConfig(geometry_features=0), ["field.geometry_features"]),
        (lambda: c.RadianceFieldConfig(direction_degree=5), ["field.direction_degree"]),
        (lambda: c.RenderConfig(grid=4), ["head.grid"]),
        (lambda: c.RenderConfig(samples_per_diagonal=1), ["head.samples_per_diagonal"]),
        (lambda: c.RenderConfig(cone=0.5), ["head.cone"]),
        (lambda: c.RenderConfig(early_stop=0.0), ["head.early_stop"]),
        (lambda: c.RenderConfig(update_every=0), ["head.update_every"]),
        (lambda: c.RenderConfig(decay=1.5), ["head.decay"]),
        (lambda: c.RenderConfig(threshold=-0.1), ["head.threshold"]),
        (lambda: c.OptimizerConfig(learning_rate=0.0), ["optimizer.learning_rate"]),
        (lambda: c.OptimizerConfig(learning_rate=float("nan")), ["optimizer.learning_rate"]),
        (lambda: c.OptimizerConfig(final_share=0.0), ["optimizer.final_share"]),
        (lambda: c.OptimizerConfig(betas=(0.9, 1.0)), ["optimizer.betas"]),
        (lambda: c.OptimizerConfig(epsilon=-1.0), ["optimizer.epsilon"]),
        (lambda: c.OptimizerConfig(weight_decay=-1.0), ["optimizer.weight_decay"]),
        (lambda: c.OptimizerConfig(warmup_steps=-1), ["optimizer.warmup_steps"]),
    ],
)
def test_what_contradicts_is_refused_when_it_is_made(build, parts):
    refused(build, *parts)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().steps = 3


# --- what depends on the encoder ---


@pytest.mark.parametrize(
    ("encoder", "sizes", "rate"),
    [("hash_grid", (64, 1, 64, 2), 2e-2), ("frequency", (256, 8, 128, 1), 5e-4)],
)
def test_resolved_fills_in_what_was_published_with_the_encoder(encoder, sizes, rate):
    config = make(field=c.RadianceFieldConfig(encoder=(encoder,))).resolved()
    field = config.field
    assert (field.width, field.depth, field.color_width, field.color_depth) == sizes
    assert config.optimizer.learning_rate == rate
    assert config.data.is_absolute()
    assert config.resolved() == config


def test_resolved_leaves_what_was_given():
    given_ = make(
        field=c.RadianceFieldConfig(encoder=("frequency",), width=32, color_depth=2),
        optimizer=c.OptimizerConfig(learning_rate=0.5),
    )
    config = given_.resolved()
    assert (config.field.width, config.field.depth, config.field.color_depth) == (32, 8, 2)
    assert config.optimizer.learning_rate == 0.5


# --- exact round trip ---


def numbers(low, high):
    return st.floats(low, high, allow_nan=False, exclude_min=True, exclude_max=True)


def maybe(strategy):
    return st.none() | strategy


NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\\\0"), min_size=1, max_size=12).filter(
    lambda text: text not in (".", "..")
)
SIZES = maybe(st.integers(1, 512))
FIELDS = st.builds(
    c.RadianceFieldConfig,
    encoder=st.sampled_from([("hash_grid",), ("frequency",), ("hash_grid", "chebyshev")]),
    hash_grid=st.builds(
        c.HashGridConfig,
        levels=st.integers(1, 24),
        features=st.sampled_from([1, 2, 4, 8]),
        log2_size=st.integers(4, 28),
        coarsest=st.integers(2, 64),
        finest=st.integers(64, 2**16),
    ),
    frequency=st.builds(fields.FrequencyConfig, levels=st.integers(1, 24)),
    width=SIZES,
    depth=SIZES,
    geometry_features=st.integers(1, 64),
    color_width=SIZES,
    color_depth=SIZES,
    direction_degree=st.integers(1, 4),
)
HEADS = st.builds(
    c.RenderConfig,
    grid=st.integers(8, 512),
    samples_per_diagonal=st.integers(16, 4096),
    cone=numbers(0.0, 0.1),
    early_stop=numbers(0.0, 1.0),
    update_every=st.integers(1, 100),
    warmup_steps=st.integers(0, 1000),
    decay=numbers(0.0, 1.0),
    threshold=numbers(0.0, 1.0),
    visual_hull=st.booleans(),
)
OPTIMIZERS = st.builds(
    c.OptimizerConfig,
    learning_rate=maybe(numbers(0.0, 1.0)),
    final_share=numbers(0.0, 1.0),
    warmup_steps=st.integers(0, 1000),
    betas=st.tuples(numbers(0.0, 1.0), numbers(0.0, 1.0)),
    epsilon=numbers(0.0, 1.0),
    weight_decay=numbers(0.0, 1.0),
)
CONFIGS = st.builds(
    c.NerfConfig,
    data=NAMES.map(Path),
    name=maybe(NAMES),
    out=NAMES.map(Path),
    overwrite=st.booleans(),
    steps=st.integers(1, 10**9),
    max_seconds=maybe(numbers(0.0, 1e9)),
    checkpoint_every=st.integers(1, 10**6),
    device=st.sampled_from(["auto", "cpu", "cuda"]),
    threads=maybe(st.integers(1, 64)),
    seed=st.integers(0, 2**31 - 1),
    precision=st.sampled_from(["auto", "float32", "tf32", "bfloat16", "float16"]),
    downscale=st.integers(1, 16),
    background=st.sampled_from(["random", "white", "black"]),
    eval_background=st.sampled_from(["white", "black"]),
    samples=st.integers(256, 2**24),
    loss=st.sampled_from(["mse", "huber"]),
    field=FIELDS,
    head=HEADS,
    optimizer=OPTIMIZERS,
)


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(CONFIGS)
def test_round_trip_through_yaml_is_exact(config):
    text = yaml.safe_dump(c.to_plain(config), sort_keys=False)
    assert c.from_plain(c.NerfConfig, yaml.safe_load(text), "config.yaml") == config
    resolved = config.resolved()
    assert c.from_plain(c.NerfConfig, yaml.safe_load(yaml.safe_dump(c.to_plain(resolved))), "x") == resolved


def test_plain_values_are_yamls_own():
    def check(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                assert isinstance(key, str)
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)
        else:
            assert value is None or type(value) in (bool, int, float, str)

    check(c.to_plain(make()))


def test_numbers_as_people_write_them():
    """YAML 1.1 takes 1e-3 for a string, and 1 for an integer: both are numbers to a setting that is one."""
    values = yaml.safe_load("data: scene\nsteps: 5\noptimizer: {learning_rate: 1e-3, final_share: 1}\n")
    optimizer = c.from_plain(c.NerfConfig, values, "mine.yaml").optimizer
    assert (optimizer.learning_rate, optimizer.final_share) == (1e-3, 1.0)
    assert isinstance(optimizer.final_share, float)


def test_missing_keys_are_named():
    refused(lambda: c.from_plain(c.NerfConfig, {"steps": 5}, "mine.yaml"), "mine.yaml", "data")


def test_a_section_keeps_what_it_leaves_out(tmp_path):
    """The optimizer of a signal is plain Adam; naming its rate alone does not make it another."""
    path = tmp_path / "mine.yaml"
    path.write_text("task: image\nsteps: 5\noptimizer: {learning_rate: 0.5}\n")
    made = c.load_preset(str(path)).config("cpu", Path("x.png")).optimizer
    assert made == dataclasses.replace(c.ImageConfig(data=Path("x.png"), steps=5).optimizer, learning_rate=0.5)
    assert made.warmup_steps == 0


# --- surfaces ---


def surface(**values):
    return c.SurfaceConfig(data=Path("scene"), **{"steps": 10, **values})


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: surface(eikonal=-1.0), "eikonal"),
        (lambda: surface(mask=-1.0), "mask"),
        (lambda: surface(curvature=-1.0), "curvature"),
        (lambda: surface(curvature_steps=0), "curvature_steps"),
        (lambda: surface(space_points=-1), "space_points"),
        (lambda: surface(plain_share=0.0), "plain_share"),
        (lambda: c.SurfaceFieldConfig(radius=1.5), "field.radius"),
        (lambda: c.SurfaceFieldConfig(first_levels=0), "field.first_levels"),
        (lambda: c.SurfaceFieldConfig(level_every=-1), "field.level_every"),
        (lambda: c.SurfaceRenderConfig(sharpness=0.0), "head.sharpness"),
        (lambda: c.SurfaceRenderConfig(sharpness_rate=-1.0), "head.sharpness_rate"),
        (lambda: c.SurfaceRenderConfig(grid=4), "head.grid"),
        (lambda: surface(downscale=0), "downscale"),
    ],
)
def test_what_surfaces_cannot_have(call, name):
    refused(call, name)


def test_a_surface_is_no_radiance_field_but_reads_the_same_photographs():
    config = surface()
    assert c.task_of(config) == "surface"
    assert isinstance(config, c.PhotographsConfig)
    assert not isinstance(config, c.NerfConfig)
    resolved = config.resolved()
    assert resolved.field.width
    assert resolved.optimizer.learning_rate
    assert c.from_plain(c.SurfaceConfig, yaml.safe_load(yaml.safe_dump(c.to_plain(resolved))), "x") == resolved
