"""The store of recordings, folds, and batches for the model."""
