"""The commands of the command line.

train, sample, encode, eval and export have a file each, whose `run(cfg, run_dir, overrides, sweep)`
reads top to bottom; the other files hold what they share. Commands know systems by the Protocols of
genlab.systems.base, and no network, loss or layer.
"""
