"""Launchers: workers, here or elsewhere, that fill a stage's work folder. No torch before a worker needs it."""

from mmpt.launch.start import launch

__all__ = ["launch"]
