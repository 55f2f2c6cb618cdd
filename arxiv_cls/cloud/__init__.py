"""Deployment of the endpoint to a cloud."""
