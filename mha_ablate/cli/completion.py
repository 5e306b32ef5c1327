"""`mha-ablate completion`: what makes a shell complete commands, options and settings."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mha_ablate.cli.common import epilog

ASKED = "_MHA_ABLATE_COMPLETE"  # the variable by which typer is asked for candidates

# Typer's own scripts for bash and zsh know nothing of words with "=", at which bash parts them, and set a space after each.
BASH = r"""_mha_ablate_completion() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$' \t\n' parts word cut
    read -ra parts <<< "$line"
    [[ $line == *[[:space:]] ]] && parts+=("")
    word=${parts[-1]}
    IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="$line" COMP_CWORD=$((${#parts[@]} - 1)) _MHA_ABLATE_COMPLETE=complete_bash "$1" 2> /dev/null))
    [[ $COMP_WORDBREAKS == *=* ]] && cut=${word%"${word##*[=:]}"} # readline has set this part aside
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    [[ ${COMPREPLY[*]} == *[=.] ]] && compopt -o nospace 2> /dev/null
    return 0
}
complete -o default -o nosort -F _mha_ablate_completion mha-ablate"""

ZSH = r"""#compdef mha-ablate
_mha_ablate_completion() {
    local -a found
    local -x COMP_WORDS="${words[1,CURRENT]}" COMP_CWORD=$((CURRENT - 1)) _MHA_ABLATE_COMPLETE=complete_bash
    found=("${(@f)$("${words[1]}" 2> /dev/null)}")
    found=(${found:#})
    if (( ! ${#found} )); then
        _files
        return
    fi
    compadd -Q -S '' -- ${(M)found:#*[=.]}
    compadd -Q -- ${found:#*[=.]}
}
compdef _mha_ablate_completion mha-ablate"""

FISH = r"""function __mha_ablate_completion
    set -lx _TYPER_COMPLETE_ARGS (commandline -cp | string join ' ')
    set -lx _TYPER_COMPLETE_FISH_ACTION get-args
    set -lx _MHA_ABLATE_COMPLETE complete_fish
    set -l found (mha-ablate 2> /dev/null)
    if test -n "$found"
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command mha-ablate --no-files --arguments '(__mha_ablate_completion)'"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

EPILOG = epilog(
    {
        'eval "$(mha-ablate completion bash)"': "in ~/.bashrc",
        'eval "$(mha-ablate completion zsh)"': "in ~/.zshrc, after compinit",
        "mha-ablate completion fish | source": "in ~/.config/fish/config.fish",
    },
    program="",
)


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(help="The shell that you use.", show_default=False)
    ],
) -> None:
    """Print what makes a shell complete commands, options, and settings: keys, choices, values, your own with --config-dir."""
    print(SCRIPTS[shell])
