"""The CO-RE standard as checks: `kmatrix lint`."""
