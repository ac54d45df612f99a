"""The only place that takes a stage's result and gives it to the registry."""
