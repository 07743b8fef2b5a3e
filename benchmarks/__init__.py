"""How fast Glocal is, beside its peers, on this machine: `python -m benchmarks`.

Each benchmark is one file with a `measure(size)` that returns a dictionary; `python -m benchmarks` writes them to
`benchmarks/results/`, and `python -m benchmarks.page` makes `docs/performance.md` and its figures of those files alone.
What is compared runs in one process, or one after the other, in rounds whose order alternates; what is reported are the
medians over rounds and the medians of the rounds' ratios.
"""
