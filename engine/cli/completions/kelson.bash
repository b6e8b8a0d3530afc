# bash completion of kelson; kelson itself says what fits: kelson __complete WORD...
_kelson() {
  local cur words cword
  if declare -F _get_comp_words_by_ref >/dev/null; then
    # Colons and equals signs are parts of names here.
    _get_comp_words_by_ref -n := cur words cword
  else
    cur=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
  fi
  local IFS=$'\n'
  COMPREPLY=($("${words[0]}" __complete "${words[@]:1:cword}" 2>/dev/null | cut -f 1))
  if declare -F __ltrim_colon_completions >/dev/null; then
    __ltrim_colon_completions "$cur"
  fi
}
complete -o default -o nosort -F _kelson kelson
