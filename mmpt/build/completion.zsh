# Completion of doit for zsh. Use, after compinit: eval "$(doit completion zsh)"
@CASES@
_doit() {
    local command="" one values
    for one in ${words[2,CURRENT-1]}; do
        [[ -z $command && $one != -* && $one != *=* ]] && command=$one
    done
    [[ -n $command && " @COMMANDS@ " != *" $command "* ]] && command=run
    if compset -P 'profile='; then
        compadd -- ${=:-@PROFILES@}
        _files -g '*.y(a|)ml'
    elif values=$(_doit_values "${command:-run}" "${words[CURRENT-1]}"); then
        if [[ $values == @files ]]; then _files; else compadd -- ${=values}; fi
    elif [[ $PREFIX == -* ]]; then
        compadd -- ${=:-"$(_doit_options "${command:-run}")"}
    else
        values=$(_doit_words "${command:-run}")
        if [[ $values == @runs ]]; then
            compadd -- artifacts/*(N/:t)
            _files -/
        else
            compadd -- ${=values}
        fi
        [[ -z $command ]] && compadd -- ${=:-@COMMANDS@}
        compadd -S '' -- profile=
    fi
}
compdef _doit doit
