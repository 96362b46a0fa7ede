"""Policies and their maths. Blind to agents and stores: packed tokens in, new weights out.

`learner.Learner` takes the steps; `advantages/` and `losses/` hold one file per estimator and loss; `objectives`
says what a step minimises; `batch` packs rows without padding; `checkpoint` writes and reads everything that a
resumed run needs. Called by `verl/` and `algorithm/sft`; calls `inference.attention` for the packed forward.
"""
