"""Evaluators: how validation rollouts are spent. One file each; the names are in `strategies`."""
