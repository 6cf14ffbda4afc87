#!/bin/sh
# What `helm test` runs: the rows of the protocol's table, and a copy from one peer to
# another. GATEWAY, PORT and DATETIME say where the index is.
set -eu
name=helm-test-$(cat /proc/sys/kernel/random/uuid)
other=$name-2
work=$(mktemp -d)
cd "$work"
mkdir shared

peer() { # user, command...
  user=$1
  shift
  lonja peer -s "$GATEWAY" -p "$PORT" --datetime "$DATETIME" --data-dir "$work" --as "$user" "$@"
}

# The reply that a row is to have, whatever the exit status.
row() { # reply, user, command...
  expected=$1
  shift
  reply=$(peer "$@" --json 2>>"$work/errors" || true)
  case $reply in
  *"\"reply\":\"$expected\""*) echo "ok: $2: $expected" ;;
  *)
    echo "FAILED: $2: expected $expected, but: $reply"
    cat "$work/errors"
    exit 1
    ;;
  esac
}

leave() {
  for user in "$name" "$other"; do
    peer "$user" unregister >/dev/null 2>&1 || true
  done
}
trap leave EXIT

row "USER DOES NOT EXIST" "$name" unregister
row "CONNECT FAIL, USER DOES NOT EXIST" "$name" connect 50085
row "REGISTER OK" "$name" register
row "USERNAME IN USE" "$name" register
row "DISCONNECT FAIL, USER NOT CONNECTED" "$name" disconnect
row "PUBLISH FAIL, USER NOT CONNECTED" "$name" publish hello.txt "a greeting"
row "CONNECT OK" "$name" connect 50085
row "CONNECT FAIL, USER ALREADY CONNECTED" "$name" connect 50085
row "PUBLISH OK" "$name" publish hello.txt "a greeting"
row "PUBLISH FAIL, CONTENT ALREADY PUBLISHED" "$name" publish hello.txt "a greeting"
row "LIST_USERS OK" "$name" users
row "LIST_CONTENT OK" "$name" content "$name"
row "LIST_CONTENT FAIL, REMOTE USER DOES NOT EXIST" "$name" content "$other"
row "DELETE OK" "$name" delete hello.txt
row "DELETE FAIL, CONTENT NOT PUBLISHED" "$name" delete hello.txt
row "DISCONNECT OK" "$name" disconnect

head -c 1000000 /dev/urandom >shared/file
# Not by the function: a signal is to reach the peer, not a shell around it.
lonja peer -s "$GATEWAY" -p "$PORT" --datetime "$DATETIME" --data-dir "$work" --as "$name" \
  share shared >"$work/sharing" 2>&1 &
sharing=$!
tries=0
until grep -q "^published file" "$work/sharing"; do
  tries=$((tries + 1))
  if [ "$tries" -gt 100 ]; then
    echo "FAILED: the file is not published"
    cat "$work/sharing"
    exit 1
  fi
  sleep 0.1
done
row "REGISTER OK" "$other" register
row "GET_FILE OK" "$other" get "$name" file -o copy
cmp shared/file copy && echo "ok: the copy is the file"
kill "$sharing"
wait "$sharing"
row "UNREGISTER OK" "$name" unregister
row "UNREGISTER OK" "$other" unregister
