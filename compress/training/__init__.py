"""Training: schedule and engine, how this machine computes (`settings`), and several processes (`distributed`)."""
