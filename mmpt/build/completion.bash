# Completion of doit for bash. Use: eval "$(doit completion bash)"
@CASES@
_doit_runs() {
    local one
    for one in artifacts/*/; do [[ -d $one ]] && basename "$one"; done
}
_doit() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local command="" prefix="" values i
    COMPREPLY=()
    # The command is the first word that is neither an option nor a variable; readline splits those at "=".
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i + 1]} == "=" ]]; then
            ((i += 2))
        elif [[ -z $command && ${COMP_WORDS[i]} != -* && ${COMP_WORDS[i]} != *=* ]]; then
            command=${COMP_WORDS[i]}
        fi
    done
    [[ -n $command && " @COMMANDS@ " != *" $command "* ]] && command=run
    if [[ $cur == "=" ]]; then
        cur="" prev="="
    elif [[ $cur == profile=* ]]; then # where "=" does not split words
        cur=${cur#profile=} prev="=" prefix=profile=
    fi
    if [[ $prev == "=" ]]; then
        mapfile -t COMPREPLY < <(compgen -W "@PROFILES@" -- "$cur"; compgen -f -X '!*.y*ml' -- "$cur"; compgen -d -S / -- "$cur")
        COMPREPLY=("${COMPREPLY[@]/#/$prefix}")
        compopt -o filenames 2> /dev/null
    elif values=$(_doit_values "${command:-run}" "$prev"); then
        if [[ $values == @files ]]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            compopt -o filenames 2> /dev/null
        else
            mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur")
        fi
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_doit_options "${command:-run}")" -- "$cur")
    else
        values=$(_doit_words "${command:-run}")
        [[ $values == @runs ]] && values=$(_doit_runs; compgen -d -- "$cur")
        [[ -z $command ]] && values+=" @COMMANDS@"
        mapfile -t COMPREPLY < <(compgen -W "$values profile=" -- "$cur")
        [[ ${COMPREPLY[*]} == profile= ]] && compopt -o nospace 2> /dev/null
    fi
    return 0
}
complete -F _doit doit
