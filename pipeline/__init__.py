"""From a system prompt to a training set whose every pair names the findings it rests on.

A producer: it reads a prompt and the world, and returns a folder, a draft and a report. It knows nothing of the catalogue; jobs/curate.py registers what
it returns.
"""
