"""Measurements of kmatrix on this host: `python -m bench`."""
