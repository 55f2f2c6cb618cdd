"""Monitoring: from the request log to a verdict on drift, an estimate of accuracy, and a report."""
