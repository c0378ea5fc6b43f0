"""Sliding-window prediction and the average of several models."""
