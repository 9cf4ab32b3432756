"""Exports trained models: weights, graphs, model cards and a page that runs in the browser."""
