"""Choosing an INT8 graph for a target: schemes, and the layers that stay in float.

Which layers must stay in float in every graph of a model is the model's `quantization_exclusions`;
`targets/quantization_exclusions.py` finds them in a graph.
"""
