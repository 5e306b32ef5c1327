"""Training: one loop for every arm, device and precision."""
