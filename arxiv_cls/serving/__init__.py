"""The HTTP endpoint: four request schemas, batches by tokens, a model that can be switched."""
