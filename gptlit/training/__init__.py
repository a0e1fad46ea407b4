"""What surrounds a run: device, optimiser and schedule, callbacks, checkpoints, the run folder."""
