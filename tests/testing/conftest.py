"""The sample project has settings and runs of its own: see test_hooks_runs.py."""

collect_ignore = ["sample_project"]
