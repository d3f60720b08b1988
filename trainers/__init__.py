"""Training and evaluation: configs, data to batches, trainers, metrics, cards and publishing."""
