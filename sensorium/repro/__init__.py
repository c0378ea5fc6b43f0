"""Run the DVC graph with independent stages side by side, on this machine or through a cluster."""
