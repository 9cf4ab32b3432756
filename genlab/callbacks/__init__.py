"""Callbacks: averaging, pictures, checkpoints, loggers and progress around a training step."""
