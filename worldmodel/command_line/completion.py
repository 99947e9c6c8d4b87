"""`wm completion bash|zsh|fish`: a script that asks this program what could come next."""

from __future__ import annotations

from worldmodel.command_line import pack, sweep
from worldmodel.config.key_reference import SHORT_NAMES, read_sections
from worldmodel.config.preset_files import list_presets
from worldmodel.programs import eval_options
from worldmodel.programs.option_parser import OptionParser
from worldmodel.programs.saved_runs import ROOT, find_runs
from worldmodel.system.console import PROGRAM, say

SCRIPTS = {
    "bash": """_wm() {
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" completion --words \\
        "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _wm wm
""",
    "zsh": """#compdef wm
_wm() {
    local -a found
    found=("${(@f)$("${words[1]}" completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -a found; else _files; fi
}
compdef _wm wm
""",
    "fish": """function __wm_words
    set -l words (commandline -opc) (commandline -ct)
    $words[1] completion --words $words[2..-1] 2>/dev/null
end
complete -c wm -f -a '(__wm_words)'
""",
}
ABOUT = f"""Print the completion script of a shell. To use it now and in every new shell:

  bash   eval "$({PROGRAM} completion bash)"               in ~/.bashrc
  zsh    eval "$({PROGRAM} completion zsh)"                in ~/.zshrc, after compinit
  fish   {PROGRAM} completion fish > ~/.config/fish/completions/wm.fish
"""
OPTIONS = {"runs": ["--json"], "tasks": ["--all"], "completion": [*SCRIPTS]}


def main(argv: list[str], commands: list[str]) -> int:
    if argv[:1] == ["--words"]:  # asked by a script
        say("\n".join(complete_words(argv[1:], commands)))
        return 0
    parser = OptionParser(
        prog=f"{PROGRAM} completion",
        description=ABOUT,
        formatter_class=eval_options.PlainFormatter,
    )
    parser.add_argument("shell", choices=[*SCRIPTS])
    say(SCRIPTS[parser.parse_words(argv).shell].rstrip())
    return 0


def complete_words(words: list[str], commands: list[str]) -> list[str]:
    """What the last of the words after `wm`, which may be empty, could become."""
    *before, begun = words or [""]
    if not before:
        found = commands
    elif before[0] == "train":
        found = list_train_words(before[1:], begun)
    elif before[0] == "sweep":
        found = list_sweep_words(before[1:], begun)
    elif before[0] == "pack":
        found = list_pack_words(before[1:], begun)
    elif before[0] == "eval":
        found = list_eval_words(before[1:], begun)
    else:
        found = [*OPTIONS.get(before[0], []), "--help"]
        found += map(str, find_runs(ROOT)) if before[0] == "runs" else []
    return [word for word in found if word.startswith(begun)]


def list_train_words(before: list[str], begun: str) -> list[str]:
    """Presets, keys, and after a key its choices."""
    keys = {f"{s.name}.{k.name}": k for s in read_sections().values() for k in s.keys.values()}
    last = before[-1] if before else ""
    if last in ("-h", "--help"):
        return [*read_sections(), *keys, *list_presets()]
    if last.startswith("--") and "=" not in last:
        key = keys.get(SHORT_NAMES.get(last[2:], last[2:]))
        return [*key.choices] if key else []
    if begun.startswith("-"):
        return [f"--{name}" for name in ("help", *SHORT_NAMES, *keys)]
    return list_presets()


def list_sweep_words(before: list[str], begun: str) -> list[str]:
    """Presets, the options of a sweep, and keys, of which --set takes one."""
    if before[-1:] == ["--set"]:
        return [
            f"{section.name}.{key}="
            for section in read_sections().values()
            for key in section.keys
        ]
    found = list_train_words(before, begun)
    if begun.startswith("-"):
        return [*sweep.make_parser().list_options(), *(word for word in found if "." in word)]
    return found


def list_pack_words(before: list[str], begun: str) -> list[str]:
    """Runs and the options of packing."""
    if begun.startswith("-"):
        return pack.make_parser().list_options()
    return [] if before[-1:] == ["--push"] else [*map(str, find_runs(ROOT)), "latest"]


def list_eval_words(before: list[str], begun: str) -> list[str]:
    """Runs, commands, and the options of the command that is named."""
    commands = [word for word in before if word in eval_options.COMMANDS]
    if begun.startswith("-"):
        options = eval_options.list_options(commands[-1] if commands else "")
        sections = [read_sections()[name] for name in ("planner", "behavior", "goal")]
        keys = [f"--{s.name}.{key}" for s in sections for key in s.keys]
        return ["--help", *options, *(keys if options else [])]
    last = before[-1] if before else ""
    if last.startswith("--"):
        return eval_options.list_choices(last)
    return [*map(str, find_runs(ROOT)), "latest", *([] if commands else eval_options.COMMANDS)]
