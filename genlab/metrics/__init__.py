"""Pure numbers: distances between sets, scores of texts, and the feature networks that they are
measured over.

Nothing here calls a system; `genlab.evaluation` does.
"""
