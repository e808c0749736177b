"""Tokenised shards, their examples, golden selection, mixture, packing and the batch loader. No torch."""
