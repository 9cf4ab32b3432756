"""Text: sequence to sequence, pretraining and conditional language models, and how they write."""
