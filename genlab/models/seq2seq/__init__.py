"""Networks that read and write text."""
