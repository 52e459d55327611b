"""The embedded scene: a procedural toy of studded bricks, ray-cast into a NeRF-synthetic folder."""

from recon3d.data.toy.make import ToySummary, make_toy

__all__ = ["ToySummary", "make_toy"]
