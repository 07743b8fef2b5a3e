"""One short runnable file per published claim: `python -m replications.NAME --help`."""
