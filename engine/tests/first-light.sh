#!/bin/bash
# `make run`: a daemon under a private root, the embedded web server with a published port, its page, its log, and nothing left.
set -euo pipefail

bin=${KELSON_BIN_DIR:?the directory of kelson and kelsond}
if (( EUID != 0 )); then
  echo 'kelsond needs root' >&2
  exit 1
fi

root=$(mktemp -d /tmp/kelson-run.XXXXXX)
host=unix://$root/api.sock
daemon=
bridges_before=$(ip -oneline link show type bridge)
rules_before=$(nft list tables)

kelson() { "$bin/kelson" --host "$host" "$@"; }

clean_up() {
  local code=$?
  if [[ -n $daemon ]]; then
    kelson rm --force hello >/dev/null 2>&1 || true
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  (( code == 0 )) || tail -n 40 "$root/kelsond.log" >&2
  # What is mounted below goes first; --one-file-system then keeps rm from following what could not be unmounted.
  while read -r point; do umount --lazy "$point" || true; done < <(awk -v r="$root/" 'index($5, r) == 1 {print $5}' /proc/self/mountinfo | tac)
  rm -rf --one-file-system "$root"
  exit "$code"
}
trap clean_up EXIT

# Succeeds as soon as the command does; gives up after ten seconds.
soon() {
  local deadline=$(( SECONDS + 10 ))
  until "$@" >/dev/null 2>&1; do
    (( SECONDS < deadline )) || { echo "not within ten seconds: $*" >&2; "$@"; return 1; }
    read -rt 0.05 <> <(:) || true
  done
}

free_port() {
  local port
  for port in {8080..8180}; do
    # A refused connection: nobody listens.
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  echo 'no free port between 8080 and 8180' >&2
  return 1
}

fetch() {
  if command -v curl >/dev/null; then
    curl --silent --show-error --fail --max-time 5 "http://127.0.0.1:$1/"
  else
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf 'GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&3
    sed '1,/^\r*$/d' <&3
  fi
}

echo "starting kelsond under $root"
"$bin/kelsond" --data-root "$root/data" --exec-root "$root/exec" --pidfile "$root/pid" --host "$host" \
  >"$root/kelsond.log" 2>&1 </dev/null &
daemon=$!
soon kelson version

port=$(free_port)
echo "\$ kelson run --detach --name hello --publish $port:80 kelson/hello"
kelson run --detach --name hello --publish "$port:80" kelson/hello
soon fetch "$port"

echo "\$ curl http://127.0.0.1:$port/"
fetch "$port"
echo
echo '$ kelson ps'
kelson ps
echo '$ kelson logs hello'
kelson logs hello

kelson rm --force hello >/dev/null
kill "$daemon"
wait "$daemon" || true
daemon=

left=0
[[ $(ip -oneline link show type bridge) == "$bridges_before" ]] || { echo 'a bridge is left:' >&2; ip -brief link show type bridge >&2; left=1; }
[[ $(nft list tables) == "$rules_before" ]] || { echo 'firewall rules are left:' >&2; nft list tables >&2; left=1; }
echo 'cleaned up'
exit "$left"
