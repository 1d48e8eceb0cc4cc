"""The manifest: collector.toml, what a collector is and what it promises."""
