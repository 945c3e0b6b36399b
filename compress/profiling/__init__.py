"""`compress profile MODEL ...`: costs and speed of models, per layer, without data."""
