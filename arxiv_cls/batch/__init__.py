"""Scoring files of any size: shards fixed before the run, on one machine or a cluster."""
