"""What only a GPU can show, in at most ten minutes: `make gpu`, or `PYTHONPATH=src python -m benchmarks.gpu`.

Each file beside this one is a step, a process of its own with a time limit of its own, that notes check after check.
Without a GPU the same steps run small, on the CPU, and what they cannot show there is named as skipped.
"""
