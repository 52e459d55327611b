"""recon3d: reconstruct scenes, shapes, CT volumes and signals by fitting a continuous neural field to measurements."""

__version__ = "0.1.0"
