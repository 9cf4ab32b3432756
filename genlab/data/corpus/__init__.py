"""Raw text to pretrain on: documents read from files, kept as shards of tokens."""
