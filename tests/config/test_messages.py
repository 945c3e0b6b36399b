from __future__ import annotations

import pytest

from compress.config import RECIPES, compose, explain
from compress.errors import UserError
from tests.config.refusals import choices, refusal


@pytest.mark.parametrize(
    ("overrides", "begin"),
    [
        (["recipe=dron_nano"], "recipe=dron_nano: there is no such choice; did you mean drone_nano?"),
        ([], "recipe=???: "),
    ],
)
def test_a_recipe_that_is_not_there_lists_those_that_are(overrides: list[str], begin: str) -> None:
    message = str(refusal(*overrides))
    assert message.startswith(begin)
    assert all(file.stem in message for file in RECIPES.glob("*.yaml"))
    assert "\n" not in message


@pytest.mark.parametrize("group", ["model", "data", "prune"])
def test_a_choice_that_is_not_there_lists_those_that_are(group: str) -> None:
    message = str(refusal("recipe=digits", f"{group}=nobody"))
    assert message.startswith(f"{group}=nobody: there is no such choice")
    assert all(choice in message for choice in choices(group))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prune.ratoi=0.3", "prune.ratoi=0.3: there is no such key; did you mean prune.ratio? (keys of prune: ratio,"),
        ("+prune.ratoi=0.3", "prune.ratoi=0.3: there is no such key; did you mean prune.ratio?"),
        ("prun.ratio=0.3", "prun.ratio=0.3: there is no such key; did you mean prune? (there are: recipe_name,"),
        ("prun=taylor", "prun=taylor: there is no such key; did you mean prune?"),
        ("~sed", "sed=: there is no such key; did you mean seed?"),
        ("sed=1", "sed=1: there is no such key; did you mean seed?"),
        ("+sed=1", "sed=1: there is no such key; did you mean seed?"),
        ("seed=abc", "seed=abc: set a whole number"),
        ("seed=-1", "seed=-1: set a whole number"),
        ("cache=maybe", "cache=maybe: set true or false"),
        ("prune.ratio=much", "prune.ratio=much: set a number, or null"),
        ("finetune.optimizer=adam", "finetune.optimizer=adam: set one of: sgd, adamw; did you mean adamw?"),
        ("finetune.activation=silu", "finetune.activation=silu: set one of: relu, relu6, or null"),
        ("stages=prune", "stages=prune: set a list in brackets, [a,b]"),
        ("targets=3", "targets=3: set a list in brackets, [a,b], or null"),
        ("model.args=3", "model.args=3: set keys and values in braces"),
        ("budget=50%", "budget=50%: set one of its keys: flops,"),
        ("seed", "seed=: set a value: key=value"),
        ("data.path=a,b", "data.path=a,b: add -m to sweep over these values"),
        ("data.path=a(b", "data.path=a(b: this cannot be read; put values with"),
        ("=3", "config=recipe=digits =3: "),
        ("recipe_name=../x", "recipe_name=../x: use only letters, digits"),
        ("seed=${nobody}", "seed=${nobody}: "),
    ],
)
def test_a_mistake_names_key_value_and_remedy(override: str, message: str) -> None:
    result = str(refusal("recipe=digits", override))
    assert result.startswith(message)
    jargon = ("full_key", "\n", "hydra.cc", "Could not", "EOF", "struct", "Error merging", "provider=")
    assert [word for word in jargon if word in result.replace("reconstruct", "")] == []


def test_a_key_below_null_says_how_to_set_the_whole() -> None:
    message = r"device\.idle_watts\.value=3: device\.idle_watts is null: set device\.idle_watts={value: …, source: …"
    with pytest.raises(UserError, match=message):
        compose(["recipe=drone_nano", "device.idle_watts.value=3"])
    with pytest.raises(AssertionError, match="another"):
        explain(AssertionError("another"), ["device.name=board"])
