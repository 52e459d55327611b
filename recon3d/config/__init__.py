"""Configurations: frozen dataclasses that a run's ``config.yaml`` is the exact image of.

Presets are YAML files (``configs/``) that give values for these classes; what a preset leaves out takes the default
here. Whatever contradicts is refused when the object is made, before any data is read. Nothing in this package imports
torch, so that ``--help`` answers at once.
"""

from recon3d.config.ct import CtConfig as CtConfig
from recon3d.config.ct import ScanSource as ScanSource
from recon3d.config.fields import FieldConfig as FieldConfig
from recon3d.config.fields import HashGridConfig as HashGridConfig
from recon3d.config.fields import RadianceFieldConfig as RadianceFieldConfig
from recon3d.config.nerf import NerfConfig as NerfConfig
from recon3d.config.photographs import PhotographsConfig as PhotographsConfig
from recon3d.config.photographs import RenderConfig as RenderConfig
from recon3d.config.plain import from_plain as from_plain
from recon3d.config.plain import read_yaml as read_yaml
from recon3d.config.plain import to_plain as to_plain
from recon3d.config.presets import TASKS as TASKS
from recon3d.config.presets import load_preset as load_preset
from recon3d.config.presets import preset_names as preset_names
from recon3d.config.presets import task_of as task_of
from recon3d.config.runs import Device as Device
from recon3d.config.runs import OptimizerConfig as OptimizerConfig
from recon3d.config.runs import RunConfig as RunConfig
from recon3d.config.shapes import ShapeConfig as ShapeConfig
from recon3d.config.signals import AudioConfig as AudioConfig
from recon3d.config.signals import ImageConfig as ImageConfig
from recon3d.config.signals import SignalConfig as SignalConfig
from recon3d.config.signals import VideoConfig as VideoConfig
from recon3d.config.surface import SurfaceConfig as SurfaceConfig
from recon3d.config.surface import SurfaceFieldConfig as SurfaceFieldConfig
from recon3d.config.surface import SurfaceRenderConfig as SurfaceRenderConfig
