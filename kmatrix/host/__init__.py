"""What every room needs of the host: paths, files that appear whole, locks, progress, errors, the checking of TOML."""
