"""Captioned media: readers, loading, the generated corpus with its oracle, manifest and split. No torch."""
