"""Files for the competition's server: written, read back and scored."""
