"""What surrounds a run: optimiser and schedule, callbacks, checkpoints, the run folder."""
