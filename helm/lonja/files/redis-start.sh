#!/bin/sh
# Starts Redis with redis.conf and the users of redis-users.sh. Redis reads both from standard
# input, so that no password is written to a file or shows among the arguments.
set -eu
here=$(dirname "$0")
dir=${LONJA_REDIS_DIR:-/data}
# A pod that is deleted by force may run on beside its successor for a while. The successor must not
# read the files before the last operation is in them, so Redis holds this lock until it ends.
exec 9>"$dir/lonja.lock"
flock -n 9 || {
  echo "another Redis still uses $dir: waiting until it has ended" >&2
  flock -w 300 9 || {
    echo "$dir is not free after 300 s: stop the other Redis, or use a volume that has locks" >&2
    exit 1
  }
}
exec redis-server - <<CONF
$(cat "$here/redis.conf")
port ${LONJA_REDIS_PORT:-6379}
bind ${LONJA_REDIS_BIND:-* -::*}
dir $dir
$(sh "$here/redis-users.sh")
CONF
