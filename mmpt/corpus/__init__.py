"""Captioned media: readers, the generated corpus with its oracle, manifest and split. No torch."""
