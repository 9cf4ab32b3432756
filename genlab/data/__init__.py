"""Data: what is common to all sets, and above it one room a field: images, points, text, corpus.

The common ground is the contract (`base`), the data module, the loader, the order of training and
the splits. A room imports the ground and no other room; `captions` joins images and text, and
corpus reads with the tokenizer of text.
"""
