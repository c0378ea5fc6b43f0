"""Recordings in Neurodata Without Borders files (https://nwb-schema.readthedocs.io), imported as raw mice."""
