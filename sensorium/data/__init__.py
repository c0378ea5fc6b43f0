"""Recordings: the raw format, simulation, download, the Zarr store, folds, and batches for the model."""
