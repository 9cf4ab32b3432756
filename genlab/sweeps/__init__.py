"""Sweeps: a folder for each job, what a job leaves behind, and the summary of them all."""
