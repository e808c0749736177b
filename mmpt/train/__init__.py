"""Training: the objective over the task mixture, the loop with its checkpoints, and its monitors."""
