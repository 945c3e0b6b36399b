"""Least-squares reconstruction of a pruned network from the outputs of the unpruned one. See README.md."""
