"""A run's numbers, verdicts, decision and golden media in MLflow, trackio or Weights & Biases."""
