"""Checks of DVC's remotes: what is wrong with one, said before a long push or pull finds out."""
