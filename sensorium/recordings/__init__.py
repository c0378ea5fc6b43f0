"""Raw recordings: the official format, its simulation, download and verification, and the way into a store."""
