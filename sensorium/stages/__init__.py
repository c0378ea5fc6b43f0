"""The verbs: one file a stage of dvc.yaml, the only place where the parts meet."""
