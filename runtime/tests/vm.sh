#!/bin/bash
# Builds the runtime's tests here and runs them in a guest with cgroup v2 and systemd: vm.sh VM [ARGUMENT...]
# VM is a program that takes `--share FOLDER -- COMMAND`, runs COMMAND as root in a guest that sees FOLDER at its own path,
# and ends with COMMAND's status. TESTS: parts of names of tests; TEST_FILES: files of tests to run, instead of all.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO:=cargo}" "${CARGO_TARGET_DIR:?}"
: "${TEST_FILES:=systemd cgroups lifecycle isolation process namespaces scheduling crash}"

folder=$CARGO_TARGET_DIR/kelson/vm
mkdir -p "$folder"
install -m 755 tests/in-guest.sh "$folder/"
read -ra filter <<< "${TESTS:-}"
printf '%s\n' "${filter[@]}" | sed '/^$/d' > "$folder/filter"

built=$("$CARGO" test --locked --no-run --package kelson-runtime --package kelson-cgroups 2>&1) || { echo "$built" >&2; exit 1; }
executables=()
executables+=("$(sed -n 's/^ *Executable unittests src\/lib.rs (\(.*kelson_cgroups-[0-9a-f]*\))$/\1/p' <<< "$built")")
for name in $TEST_FILES; do
  executables+=("$(sed -n "s/^ *Executable tests\/$name.rs (\(.*\))\$/\1/p" <<< "$built")")
done
for executable in "${executables[@]}"; do
  [[ -x $executable ]] || { echo "a test program is missing among: ${executables[*]}" >&2; exit 1; }
done
exec "$@" --share "$CARGO_TARGET_DIR" -- "$folder/in-guest.sh" "$folder" "${executables[@]}"
