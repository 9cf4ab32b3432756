"""Distances between image sets, and the feature networks they are measured with."""
