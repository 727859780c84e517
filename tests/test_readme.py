"""What the pages show: commands that this version understands, and links that lead somewhere. LOG.md tells of other days."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from racg_pl.cli import TRAINER_VERBS, main, parser

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data_prep/README.md", "results/README.md", "experiments/slurm.md")
]


def shown(page: Path) -> list[str]:
    """Commands in blocks of shell and in running text, without comments and what a shell fills in.

    An ellipsis, or a verb alone, is no whole command.
    """
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:racg|make) [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    lines = [re.sub(r"\s+#.*|\$\{[^}]*\}", "", part).removeprefix("srun ") for line in lines for part in line.split(" && ")]
    return [line for line in lines if re.match(r"make |racg \w+ \S", line) and "…" not in line]


COMMANDS = sorted({line for page in PAGES for line in shown(page)})


def test_there_are_commands_of_most_verbs():
    verbs = {shlex.split(line, comments=True)[1] for line in COMMANDS if line.startswith("racg ")}
    assert {"convert", "prepare", "text", "parse", "check", "fit", "test", "predict", "export", "eval", "ground"} <= verbs
    assert {"tables", "search", "bench"} <= verbs


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("racg ")])
def test_racg_understands(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(ROOT)
    program, *arguments = shlex.split(line.partition(" > ")[0], comments=True)
    assert program == "racg"
    for path in (word for word in arguments if word.startswith("experiments/")):
        assert Path(path).exists(), f"{path} is not here"
    if arguments[0] in TRAINER_VERBS:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--print_config"])
        assert not ended.value.code, capsys.readouterr().err
    else:
        assert callable(parser().parse_args(arguments).run)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_knows_the_target(line: str):
    words = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "data_prep" / "parser" / "README.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in (link for link in links if "://" not in link):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: is not here"
        if heading:
            headings = re.findall(r"^#+ (.+)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings], (
                f"{link}: no such heading"
            )
