"""The verbs that are not stages of dvc.yaml, one module each."""
