"""Fine-tuning: batches, learning rates, checkpoints, trackers; what the two entry scripts call."""
