"""Example data sets and a small network, used by the recipes of this package."""
