"""Which quantized graph to hand out: candidates, and which layers an INT8 graph should leave in float."""
