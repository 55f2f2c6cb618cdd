"""Scoring: metrics with intervals, calibration, evaluation of a model directory, comparison, plots."""
