"""Run the DVC graph with independent stages in parallel, on this machine or through a cluster."""
