"""Scores of out-of-fold predictions: by mouse, fold and tier, in one pass over the trials."""
