"""Pictures, tables and HTML pages that show the results of runs and sweeps."""
