"""Generators trained without a discriminator (GLO, IMLE, GLANN), their stored codes, and inversion
by gradient descent.
"""
