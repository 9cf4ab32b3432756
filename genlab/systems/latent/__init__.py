"""Generators trained without an adversary: GLO, IMLE and GLANN, their stored codes, and inversion
by descent.
"""
