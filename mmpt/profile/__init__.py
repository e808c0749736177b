"""Profiles: what a run is. Reading, inheriting, checking; the packaged ones lie in ``packaged/``. No torch."""

from mmpt.profile.launcher import launcher_of
from mmpt.profile.load import PACKAGED, Profile, load_profile, stated_name

__all__ = ["PACKAGED", "Profile", "launcher_of", "load_profile", "stated_name"]
