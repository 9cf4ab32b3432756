"""Layers with no idea of training."""
