"""Networks in pure torch, one paper or post a file."""
