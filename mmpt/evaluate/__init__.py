"""Measures of a trained model: conditionality, regression, golden generation, resume, free-running
quality.
"""
