"""Readers of projections, one module a format; :func:`recon3d.data.scan_files.read_scan` picks one by the content.

Each has ``read(path, told)``: ``told`` is the sidecar, which may name the array to read; it returns what was found
(:class:`recon3d.data.sidecar.Found`). The libraries of a format are imported when a file of it is read.
"""
