"""The job engine: durable builds on DBOS. Only `registry worker` and an embedded `registry build` load it; who merely orders or watches needs
registry.job_queue and registry.job_board alone.

    stages.py    what the five steps do, as plain functions; knows nothing of DBOS
    workflow.py  the durable workflow: the steps in order, each recorded when it ended
    worker.py    a process that takes jobs: beats, drives one warm trainer, leaves cleanly
    reaper.py    hands the jobs of dead workers to the living
    orders.py    which advisors can be built, and which words must be acknowledged before
    wave.py      what happened to each job of a wave
"""
