"""Which INT8 graph to hand out: candidates, and where all lose too much, the layers that INT8 hurts most. What stays in
float in every graph of a model is said by the model (`quantization_exclusions`) and found in graphs by `targets/quantization_exclusions.py`."""
