"""Search for the INT8 graph of a target: the quantization scheme, and the layers that stay in float.

Layers that stay in float in every graph of a model are the model's `quantization_exclusions`;
`targets/quantization_exclusions.py` finds them in a graph.
"""
