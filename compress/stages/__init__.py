"""The stages, in the order a recipe may name them. Each module offers `run(product, context) -> product`."""
