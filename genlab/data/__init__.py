"""Data: the order of training, the loader and the splits, and above them one room a field: images,
points, text, corpus.

A room imports the ground and not another room; `captions` joins images and text, and corpus reads
with the tokenizer of text.
"""
