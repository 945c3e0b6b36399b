"""Which nodes of a graph stay in float."""

from __future__ import annotations

from compress.targets import quantization_exclusions
from compress.targets.quantization_exclusions import Node, by_module, kept_nodes


def test_module_paths_are_read_from_node_names() -> None:
    assert quantization_exclusions.module_path("/model.23/cv3.0/cv3.0.1/conv/Conv") == "model.23.cv3.0.1.conv"
    assert quantization_exclusions.module_path("/model.10/m/m.0/attn/MatMul") == "model.10.m.0.attn"


def test_what_follows_the_last_quantized_layer_stays_float() -> None:
    chain = [
        quantization_exclusions.Node("/a/Conv", (), True),
        quantization_exclusions.Node("/a/Relu", ("/a/Conv",), False),
        quantization_exclusions.Node("/b/Conv", ("/a/Relu",), True),
        quantization_exclusions.Node("/Sigmoid", ("/b/Conv",), False),
    ]
    assert quantization_exclusions.kept_nodes(chain, {"b": "because"}) == {
        "/b/Conv": "because",
        "/a/Relu": quantization_exclusions.TAIL,
        "/Sigmoid": quantization_exclusions.TAIL,
    }


def test_the_first_layers_and_what_hangs_on_them_alone() -> None:
    graph = [
        quantization_exclusions.Node("/a/Conv", (), True),
        quantization_exclusions.Node("/a/Relu", ("/a/Conv",), False),
        quantization_exclusions.Node("/b/Conv", ("/a/Relu",), True),
        quantization_exclusions.Node("/Add", ("/a/Relu", "/b/Conv"), False),
        quantization_exclusions.Node("/c/Conv", ("/Add",), True),
        quantization_exclusions.Node("/Concat", ("/b/Conv", "/c/Conv"), False),
    ]
    assert quantization_exclusions.first_layers(graph, 0) == {}
    assert set(quantization_exclusions.first_layers(graph, 1)) == {"/a/Conv", "/a/Relu"}
    assert set(quantization_exclusions.first_layers(graph, 2)) == {"/a/Conv", "/a/Relu", "/b/Conv", "/Add"}


def test_a_module_name_is_not_a_prefix_of_a_longer_number() -> None:
    nodes = [Node("/model.1/Conv", (), True), Node("/model.10/Conv", ("/model.1/Conv",), True)]
    assert kept_nodes(nodes, {"model.1": "because"}) == {"/model.1/Conv": "because"}


def test_attention_products_stay_in_float_with_what_lies_between_them() -> None:
    chain = [
        Node("/attn/qkv/Conv", (), True),
        Node("/attn/MatMul", ("/attn/qkv/Conv",), False, product=True),
        Node("/attn/Softmax", ("/attn/MatMul",), False),
        Node("/attn/MatMul_1", ("/attn/Softmax",), False, product=True),
        Node("/Mul", ("/attn/MatMul_1",), False),  # of another module
        Node("/head/Conv", ("/Mul",), True),
    ]
    assert kept_nodes(chain, {}) == dict.fromkeys(
        ("/attn/MatMul", "/attn/Softmax", "/attn/MatMul_1"), quantization_exclusions.ATTENTION
    )


def test_a_product_outside_all_modules_takes_nothing_with_it() -> None:
    chain = [
        Node("/Conv", (), True),
        Node("/MatMul", ("/Conv",), False, product=True),
        Node("/Relu", ("/MatMul",), False),
        Node("/b/Conv", ("/Relu",), True),
    ]
    assert set(kept_nodes(chain, {})) == {"/MatMul"}


def test_a_reason_that_was_given_wins_over_those_found_here() -> None:
    chain = [Node("/a/Conv", (), True), Node("/b/MatMul", ("/a/Conv",), False, product=True)]
    assert kept_nodes(chain, {"b": "because"}) == {"/b/MatMul": "because"}


def test_nodes_are_reported_by_module_or_by_their_own_name() -> None:
    excluded = {"/model.2/cv1/Conv": "one", "/Sigmoid": "two", "Add_7": "three"}
    assert by_module(excluded) == {"model.2.cv1": "one", "/Sigmoid": "two", "Add_7": "three"}
