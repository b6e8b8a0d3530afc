# fish completion of kelson; kelson itself says what fits: kelson __complete WORD...
function __kelson_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    $program __complete $words (commandline -ct) 2>/dev/null
end
function __kelson_has_answer
    test (count (__kelson_complete)) -gt 0
end
complete -c kelson -n __kelson_has_answer -f -a '(__kelson_complete)'
