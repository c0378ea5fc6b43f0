"""The model registry: the teacher, the student, and the pair that pins one version of each."""
