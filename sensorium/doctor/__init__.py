"""What is wrong with a project: one module per area, each check a function that yields findings."""
