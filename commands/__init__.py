"""The commands of `registry`, one module per noun; cli.py puts them together."""
