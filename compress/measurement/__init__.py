"""Cost, accuracy and latency of a network or an artifact, and the weighing that makes them a ledger row."""
