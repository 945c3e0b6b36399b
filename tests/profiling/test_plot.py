from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from compress.profiling.plot import HEIGHT, LEFT, TOP, WIDTH, roofline_svg
from tests.profiling.profiles import LAYERS, PROFILE, ROOF

SVG = "{http://www.w3.org/2000/svg}"


def test_layers_with_products_are_marks_inside_the_frame() -> None:
    hostile = replace(PROFILE, layers=(replace(LAYERS[0], name="<script>"), *LAYERS[1:]))
    root = ElementTree.fromstring(roofline_svg([hostile], ROOF))
    marks = [circle for circle in root.iter(f"{SVG}circle") if circle.find(f"{SVG}title") is not None]
    assert len(marks) == 1  # others have no products, or no time of their own
    assert LEFT <= float(marks[0].get("cx", "0")) <= WIDTH and TOP <= float(marks[0].get("cy", "0")) <= HEIGHT
    assert (marks[0].findtext(f"{SVG}title") or "").startswith("<script>: Conv")
    assert len(list(root.iter(f"{SVG}polyline"))) == len(ROOF.peak_gops)


def test_models_have_colours_of_their_own() -> None:
    root = ElementTree.fromstring(roofline_svg([PROFILE, replace(PROFILE, name="other")], ROOF))
    assert len({circle.get("fill") for circle in root.iter(f"{SVG}circle")}) == 2
