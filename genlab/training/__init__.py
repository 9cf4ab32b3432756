"""What trains any system: the trainer, captured graphs, the end of a step, DDP checks, LAMB.

Nothing here knows a model, a loss or a data set. Callbacks, which happen around a step, live in
`genlab.callbacks`.
"""
