"""recon3d: reconstruct scenes, shapes, CT volumes and signals by fitting a continuous neural field to measurements."""

__version__ = "0.1.0"

import os

# How long torch's OpenMP threads spin before they sleep, said before torch starts them. Spinning for milliseconds, as
# they do by default, takes the cores from our own workers and from whatever else runs there; sleeping at once costs
# 0.1 ms to wake for every small operation. This is some tens of microseconds.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
