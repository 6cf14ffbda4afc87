#!/bin/sh
# Prints the users of Redis: each service may use the commands that it needs, on its own
# keys. Passwords come from LONJA_REDIS_{REGISTRY,CATALOG,AUDIT}_PASSWORD.
set -eu
prefix=${LONJA_REDIS_PREFIX:-lonja}
common="resetchannels -@all +hello +auth +ping +evalsha +script|load +get +set +cluster|slots"
# Nobody can log in as the default user, but Redis replays its file as that one when it
# starts, and would leave out what it may not do.
cat <<USERS
user default off resetpass ~* &* +@all
user health on nopass -@all +ping
user registry on >${LONJA_REDIS_REGISTRY_PASSWORD:?} ~$prefix:registry:* $common +mget +hget +hset +hsetnx +hdel +hlen +hgetall +multi +exec +time
user catalog on >${LONJA_REDIS_CATALOG_PASSWORD:?} ~$prefix:catalog:* $common +exists +unlink +hget +hset +hdel +hlen +hgetall +hexists +hincrby +time +xadd +xrange
user audit on >${LONJA_REDIS_AUDIT_PASSWORD:?} ~$prefix:audit:* $common +xadd +xrange +hget +hset +hdel +hlen +hgetall +time
USERS
