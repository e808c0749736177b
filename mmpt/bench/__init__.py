"""Benchmarks against peers, and their recorded results."""
