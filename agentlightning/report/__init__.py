"""What a run shows: metrics files, live progress, the table and the picture at the end, peak memory.

Called by the training loops and by commands; calls nothing of the package but `types`. matplotlib, TensorBoard and W&B
are imported when they are used. Import from the modules: `report.metrics`, `report.progress`, ...
"""
