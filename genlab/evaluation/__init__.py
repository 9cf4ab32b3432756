"""What `genlab eval` measures of a trained system: images, density, classification, text.

It calls the system and hands the results to `genlab.metrics`, which knows tensors and texts alone.
"""
