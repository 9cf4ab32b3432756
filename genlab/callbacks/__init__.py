"""What happens around a training step: averaging, pictures, checkpoints, progress."""
