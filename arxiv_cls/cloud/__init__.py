"""Deployments on other people's machines."""
