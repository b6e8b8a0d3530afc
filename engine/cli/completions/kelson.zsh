#compdef kelson
# zsh completion of kelson; kelson itself says what fits: kelson __complete WORD...
_kelson() {
  local -a lines found
  local line
  lines=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  for line in "${(@)lines:#}"; do
    # A colon would end the word.
    found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
  done
  if (( $#found )); then
    _describe -V kelson found
  else
    _files
  fi
}
if [[ $funcstack[1] == _kelson ]]; then
  _kelson "$@"
else
  compdef _kelson kelson
fi
