"""DwiseNeuro: its layers, parts and checkpoint form. Knows nothing of files on disk but its own checkpoints."""
