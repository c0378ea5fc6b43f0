"""Experiments in silico: stimuli shown to a trained model as to an animal."""
