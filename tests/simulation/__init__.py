"""The engine on a simulated cluster, clock and world: one seed is one schedule of faults, bit for bit.

``python -m tests.simulation --seeds 5000`` runs many, ``--seed N --trace`` replays one and tells what
happened. The reconciler, rounds and publisher are the real ones; beneath them is the embedded
cluster in memory, behind a facade that fails, lags, lies and dies as the seed says.
"""
