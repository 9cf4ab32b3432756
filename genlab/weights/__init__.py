"""Pretrained weights: found, read and accounted for."""
