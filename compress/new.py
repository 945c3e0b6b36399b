"""`compress new NAME`: a folder with a recipe, a data set and a metric to fill in."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from compress.config import check_name
from compress.errors import Parser, UserError

TEMPLATES = {
    "recipe.yaml": "recipe/{name}.yaml", "data.py": "{name}_data.py", "metric.py": "{name}_metric.py",
    "README.md": "README.md",
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 2 for an invalid name or an existing folder."""
    parser = Parser(prog="compress new", description=__doc__)
    parser.add_argument("name", help="name of the recipe and of its folder")
    try:
        print(create(parser.parse_args(arguments).name))
    except UserError as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2
    return 0


def create(name: str) -> str:
    """Writes the folder `name` into the working directory; returns what to do next. Raises UserError if the name is not
    a Python identifier, or the folder exists."""
    check_name(name)
    if not name.isidentifier():
        raise UserError("name", name, "set a name of letters, digits and _, which does not begin with a digit")
    folder = Path(name)
    if folder.exists():
        raise UserError("name", name, "a file or folder of that name exists: choose another")
    source = resources.files("compress") / "templates" / "new"
    for template, target in TEMPLATES.items():
        path = folder / target.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((source / f"{template}.template").read_text().replace("NAME", name))
    command = f"compress run --config-dir {name} recipe={name} data=module data.target={name}.{name}_data.Data"
    return f"wrote {name}/: fill in {name}/{name}_data.py, then\n  {command}"
