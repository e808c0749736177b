"""What everything else stands on: canonical JSON, digests, atomic writes, schemas, locks, evidence. No torch."""
