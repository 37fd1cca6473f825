"""Documentation: every command is run by a test or says why not, and commands, options and settings exist.

tests/fleet/test_readme.py, tests/fleet/test_inference_page.py and tests/serving/test_page.py run the commands.
"""

import argparse
import re
import shlex

import pytest
import yaml

from tests.documentation import PAGES, blocks, commands, executed_commands, executed_samples
from tests.fleet.test_inference_page import PAGE as INFERENCE
from tests.fleet.test_readme import PAGES as RUN_BY_README
from tests.processes import ROOT
from vilg import config
from vilg.cli import parser

COMMAND = re.compile(r"^\s*(vilg|fleetrun|python|pip|make|curl|docker) ", re.M)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_by_a_test_or_says_why_not(page):
    tested = [*RUN_BY_README, INFERENCE]
    assert page in tested or not executed_commands(page) + executed_samples(page)
    for block in blocks(page):
        if COMMAND.search(block.text):
            assert block.language in ("sh", "bash", "python"), f"{page}: a command in a block without a language"
        if block.language == "bash":  # the HTTP API
            assert page == INFERENCE


@pytest.mark.parametrize("page", PAGES)
def test_yaml_blocks_are_valid_settings(page):
    for block in blocks(page):
        if block.language == "yaml":
            config.from_tree(config.Pretraining, yaml.safe_load(block.text), page)


def vilg_commands(page: str) -> list[str]:
    """The vilg commands of a page, in blocks and in inline code."""
    text = (ROOT / page).read_text("utf-8")
    inline = re.findall(r"`(vilg [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    lines = [line for block in blocks(page) if block.language == "sh" for line in commands(block.text)]
    return [" ".join(command.split()) for command in inline + lines if command.startswith("vilg ")]


def unknown_words(command: str) -> list[str]:
    """The subcommands and options of a command that do not exist. Words in capitals and <..> are placeholders."""
    words, current = shlex.split(command)[1:], parser()
    while words and (groups := [a for a in current._actions if isinstance(a, argparse._SubParsersAction)]):
        word = words.pop(0)
        if word.startswith(("-", "<")) or word == "..":
            break
        if word not in groups[0].choices:
            return [word]
        current = groups[0].choices[word]
        if word == "fleetrun":  # the other options are Paddle's
            return []
    options = {option for action in current._actions for option in action.option_strings}
    return [word for word in words if word.startswith("-") and word.partition("=")[0] not in options]


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page):
    assert not [f"{command}: {words}" for command in vilg_commands(page) if (words := unknown_words(command))]


def test_an_unknown_command_or_option_is_found():
    assert unknown_words("vilg genrate --export DIR") == ["genrate"]
    assert unknown_words("vilg generate --export DIR --judge x") == ["--judge"]
    assert unknown_words("vilg checkpoint lst RUN") == ["lst"]
    assert not unknown_words("vilg checkpoint list RUN") and not unknown_words("vilg generate --best-of 8")
