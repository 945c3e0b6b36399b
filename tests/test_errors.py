from __future__ import annotations

import pickle

import pytest

from compress.errors import InUse, MissingExtra, Parser, UserError, named, one_line


def test_a_user_error_names_key_value_and_remedy() -> None:
    error = UserError("budget.flops", "0%", "set at least 1 FLOP")
    assert str(error) == "budget.flops=0%: set at least 1 FLOP"
    assert (error.key, error.value, error.remedy) == ("budget.flops", "0%", "set at least 1 FLOP")


def test_a_missing_package_comes_with_the_command_that_installs_it() -> None:
    assert "pip install nncf" in str(MissingExtra("targets", "nncf"))
    assert "pip install -e '.[litert]'" in str(MissingExtra("targets", "litert-torch", "litert"))
    assert isinstance(MissingExtra("targets", "nncf"), UserError) and issubclass(InUse, UserError)


def test_messages_of_several_lines_become_one() -> None:
    assert one_line(" first\n\tsecond  third\n") == "first second third"
    assert named(ValueError("a\nb")) == "ValueError: a b"


def test_a_parser_raises_instead_of_printing_its_usage(capfd: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="compress new")
    parser.add_argument("name")
    with pytest.raises(UserError, match="required: name") as caught:
        parser.parse_args([])
    assert caught.value.key == "command line"
    assert capfd.readouterr() == ("", "")


def test_errors_survive_their_way_from_a_worker() -> None:
    for error in (UserError("seed", 3, "set 4"), MissingExtra("targets", "ncnn", "ncnn"), InUse("x", None, "wait")):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert (copy.key, copy.value, copy.remedy, str(copy)) == (error.key, error.value, error.remedy, str(error))
