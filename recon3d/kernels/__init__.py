"""The few operations that decide speed.

Each is one torch custom op in a folder of its own: ``reference.py`` is the readable truth in plain torch (any device,
any float type), ``cpu.py`` the numba implementation, ``cuda.py`` the Triton one; ``__init__.py`` declares the op, its
shapes and its gradient. Torch's dispatcher picks the implementation from the device of the tensors; on a CPU, where
it has nothing else to do, it is not asked (``ops.py``).
"""

from recon3d.kernels.adam import adam_rows
from recon3d.kernels.compositing import composite
from recon3d.kernels.cosine_series import chebyshev_angle, cosine_series
from recon3d.kernels.hash_grid import HashLayout, hash_encode, hash_recall
from recon3d.kernels.marching import first_samples, march_ahead, march_rays, occupied_blocks
from recon3d.kernels.mlp import relu_mlp, relu_mlp_recall
from recon3d.kernels.projection import back_project, project
from recon3d.kernels.segments import darken_segments, lay_segments
from recon3d.kernels.sine import damped_sine
from recon3d.kernels.sine_mlp import sine_mlp
from recon3d.kernels.spherical_harmonics import spherical_harmonics

__all__ = [
    "HashLayout",
    "adam_rows",
    "back_project",
    "chebyshev_angle",
    "composite",
    "cosine_series",
    "damped_sine",
    "darken_segments",
    "first_samples",
    "hash_encode",
    "hash_recall",
    "lay_segments",
    "march_ahead",
    "march_rays",
    "occupied_blocks",
    "project",
    "relu_mlp",
    "relu_mlp_recall",
    "sine_mlp",
    "spherical_harmonics",
]
