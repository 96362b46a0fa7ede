"""Proposers: write children of parents. One file each; `common` holds what they share."""
