"""Invertible networks: trained by exact likelihood, or as classifiers."""
