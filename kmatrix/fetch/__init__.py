"""Whole and verified downloads: HTTP, Debian's archives, signatures, and what archives and packages hold."""
