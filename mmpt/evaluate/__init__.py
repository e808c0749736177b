"""Measures of a trained model: conditionality, regression, golden outputs, resume, free-running quality."""
