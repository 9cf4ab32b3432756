"""Invertible networks, one paper a file."""
