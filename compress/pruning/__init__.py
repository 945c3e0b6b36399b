"""Structured pruning: groups of coupled channels, their importance, and the solver that meets a budget."""
