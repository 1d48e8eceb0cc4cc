"""What a collector.toml may say, proposed from compiled objects: `kmatrix init` writes it."""
