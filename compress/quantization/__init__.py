"""Search for the INT8 graph of a target: the quantization scheme, and the layers that stay in float besides the model's
`quantization_exclusions`, which `targets/quantization_exclusions.py` finds in a graph."""
