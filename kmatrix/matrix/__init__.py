"""The matrix: kernels.toml and kernels.lock, kernels and targets, the expressions that select them, the feature table."""
