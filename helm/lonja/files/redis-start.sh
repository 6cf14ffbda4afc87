#!/bin/sh
# Starts Redis with redis.conf and the users of redis-users.sh. Redis reads both from standard
# input, so that no password is written to a file or shows among the arguments.
set -eu
here=$(dirname "$0")
dir=${LONJA_REDIS_DIR:-/data}
# When a pod is deleted by force, its successor starts while Redis still runs in the pod. The successor
# must not read the files before the last operation is in them, so it waits for this lock, which
# Redis holds to its end.
exec 9>"$dir/lonja.lock"
flock -n 9 || {
  echo "another Redis still uses $dir: waiting until it has ended" >&2
  flock 9
}
exec redis-server - <<CONF
$(cat "$here/redis.conf")
port ${LONJA_REDIS_PORT:-6379}
bind ${LONJA_REDIS_BIND:-* -::*}
dir $dir
$(sh "$here/redis-users.sh")
CONF
