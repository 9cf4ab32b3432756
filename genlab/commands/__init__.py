"""The commands: each file's run(cfg, run_dir, overrides, sweep) reads top to bottom."""
