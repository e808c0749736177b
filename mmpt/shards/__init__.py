"""Tokenised shards, the examples built from them, golden selection, mixture, packing and the batch loader. No torch."""
