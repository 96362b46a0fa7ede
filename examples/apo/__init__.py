"""Prompt optimisation on an agent that books meeting rooms."""
