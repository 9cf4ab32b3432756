"""Invertible networks, one paper a file. They are genlab.nn.bijection.Bijections."""
