"""Searches of hyper-parameters, by Optuna."""
