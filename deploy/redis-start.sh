#!/bin/sh
# Starts Redis with redis.conf and the users of redis-users.sh. Redis reads both from standard
# input, so that no password is written to a file or shows among the arguments.
set -eu
here=$(dirname "$0")
exec redis-server - <<CONF
$(cat "$here/redis.conf")
port ${LONJA_REDIS_PORT:-6379}
bind ${LONJA_REDIS_BIND:-* -::*}
dir ${LONJA_REDIS_DIR:-/data}
$(sh "$here/redis-users.sh")
CONF
