"""Selectors: who gets children, and who stays in the archive. One file each; the names are in `strategies`."""
