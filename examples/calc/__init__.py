"""A calculator agent that learns on a CPU; see README.md."""
