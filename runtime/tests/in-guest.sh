#!/bin/bash
# Runs test programs one after another, in a guest (see vm.sh) or anywhere else: in-guest.sh FOLDER PROGRAM...
# FOLDER/filter holds arguments for all of them. Their exit statuses are summed up at the end.
set -uo pipefail
folder=$1; shift
mapfile -t arguments < "$folder/filter"
failed=()
for program in "$@"; do
  echo "== ${program##*/}"
  # Timing in a guest says nothing, and one test at a time keeps deadlines meaningful on an emulated processor.
  "$program" --test-threads=1 "${arguments[@]}" || failed+=("${program##*/}")
done
if (( ${#failed[@]} )); then
  echo "failed in the guest: ${failed[*]}" >&2
  exit 1
fi
echo "all passed in the guest"
