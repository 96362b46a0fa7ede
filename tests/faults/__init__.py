"""Faults: real processes that are killed, stopped, cut off and told the wrong time; nothing acknowledged is lost.

`FAULT_ROUNDS` says how many faults each process gets (25 if not given; `make faults`: 200), `FAULT_SEED` repeats a run.
"""
