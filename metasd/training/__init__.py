"""Training runs: one step, schedules, the loop around them, checkpoints and the run folder."""
