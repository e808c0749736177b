# Completion of doit for fish. Use: doit completion fish | source
function __doit_in --description 'whether the command typed is one of these; "none" where none is'
    set -l found none
    for word in (commandline -opc)[2..]
        if not string match -q -- '-*' $word; and not string match -q -- '*=*' $word
            set found run
            contains -- $word @COMMANDS@; and set found $word
            break
        end
    end
    contains -- $found $argv
end
function __doit_runs
    for folder in artifacts/*/
        basename $folder
    end
end
function __doit_profiles
    for profile in @PROFILES@ *.yaml
        echo profile=$profile
    end
end
complete -c doit -f
complete -c doit -a '(__doit_profiles)'
@RULES@
