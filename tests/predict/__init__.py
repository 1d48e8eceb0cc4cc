"""Predictions from profiles of kernels."""
