"""Train a fold again from what its run recorded, and compare."""
