"""Launchers: workers on this or other machines that fill a stage's work folder. No torch until a worker needs it."""

from mmpt.launch.dispatch import launch

__all__ = ["launch"]
