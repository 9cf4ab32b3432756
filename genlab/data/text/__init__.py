"""Texts as rows of tokens: records, tokenizer, vocabulary, codec, and the sets made of them.
Imports no image library.
"""
