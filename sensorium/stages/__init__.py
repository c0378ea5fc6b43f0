"""The stages of dvc.yaml, one module each: where data, model, training and tracking meet."""
