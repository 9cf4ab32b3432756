"""Generators and discriminators of GANs, one paper per file."""
