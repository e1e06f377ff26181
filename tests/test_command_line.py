"""`ovseg` itself: verbs, help, exit statuses."""

import pytest

from pipelines import command_line
from pipelines.command_line import VERBS, main
from schemas import UserError


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in VERBS)
    assert main([]) == 0


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert "--output" in capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"mine", "nouns", "masks", "match", "score"}))
def test_an_unknown_option_is_one_sentence_for_every_verb(verb, capsys):
    assert main([verb, "--outputt=x"]) == 2
    sentence = f"ovseg {verb}: unrecognized arguments: --outputt=x; did you mean --output? --help lists what there is\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize("verb", ["segment", "evaluate"])
def test_what_an_option_is_called_elsewhere_is_known(verb, capsys):
    assert main([verb, "--lambda=0.7"]) == 2
    assert "unrecognized arguments: --lambda=0.7; did you mean --clip-weight?" in capsys.readouterr().err


def test_the_version_is_the_distributions(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ovseg-mining 0.")


@pytest.mark.parametrize(("error", "status"), [(UserError("no"), 2), (KeyboardInterrupt(), 130)])
def test_a_mistake_or_a_stop_is_a_status_and_a_sentence(error, status, monkeypatch, capsys):
    def fail(argv):
        raise error

    monkeypatch.setattr(command_line, "verb_main", lambda name: fail)
    assert main(["mine"]) == status
    assert capsys.readouterr().err.startswith("ovseg mine: ")


def test_a_defect_is_not_hidden(monkeypatch):
    def fail(argv):
        raise RuntimeError("a defect")

    monkeypatch.setattr(command_line, "verb_main", lambda name: fail)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["mine"])


def test_scenes_that_cannot_be_written_are_one_sentence(capsys):
    assert main(["draw-scenes", "--output", "/dev/null/x", "--scenes", "1"]) == 2
    assert capsys.readouterr().err.startswith("ovseg draw-scenes: /dev/null/x cannot be written: Not a directory; ")
