"""The base of all packages: canonical JSON, digests, atomic writes, schemas, locks, evidence. No torch."""
