"""What a training calls besides its own work: progress, logging, checkpoints, stopping. None of it changes a bit."""
