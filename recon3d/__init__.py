"""recon3d: reconstruct scenes, shapes, CT volumes and signals by fitting a continuous neural field to measurements."""

__version__ = "0.1.0"

import os

# OpenMP threads that spin while they wait fight with our own workers, and with whatever else runs on the same cores;
# asleep they cost a few microseconds to wake. It must be said before torch starts them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
