"""Objectives: small classes and functions of tensors."""
