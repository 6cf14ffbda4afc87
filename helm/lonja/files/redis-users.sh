#!/bin/sh
# Prints the users of Redis: each service may use the commands that it needs, on its own keys. The
# passwords come from LONJA_REDIS_{REGISTRY,CATALOG,AUDIT}_PASSWORD. With LONJA_REDIS_OPERATOR_PASSWORD
# there is a user for `lonja export` and `lonja import`, too.
set -eu
prefix=${LONJA_REDIS_PREFIX:-lonja}
common="resetchannels -@all +hello +auth +ping +evalsha +script|load +get +set +cluster|slots"
# Nobody can log in as the default user. But when Redis starts, it replays its append-only file as
# this user, and would leave out the commands that this user may not run.
cat <<USERS
user default off resetpass ~* &* +@all
user health on nopass -@all +ping
user registry on >${LONJA_REDIS_REGISTRY_PASSWORD:?} ~$prefix:registry:* $common +mget +hget +hset +hsetnx +hdel +hlen +hgetall +multi +exec +time
user catalog on >${LONJA_REDIS_CATALOG_PASSWORD:?} ~$prefix:catalog:* $common +exists +unlink +hget +hset +hdel +hlen +hgetall +hexists +hincrby +time +xadd +xrange
user audit on >${LONJA_REDIS_AUDIT_PASSWORD:?} ~$prefix:audit:* $common +xadd +xrange +hget +hset +hdel +hlen +hgetall +time
USERS
if [ -n "${LONJA_REDIS_OPERATOR_PASSWORD:-}" ]; then
  echo "user operator on >$LONJA_REDIS_OPERATOR_PASSWORD ~$prefix:* ~$prefix.import:* $common" \
    "+mget +hget +hset +hsetnx +hdel +hlen +hgetall +hexists +hincrby +xadd +xrange" \
    "+multi +exec +time +exists +unlink +del +rename"
fi
