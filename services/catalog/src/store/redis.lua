-- What the sessions of a shard have published.
--   files:SESSION   hash: filename -> "ORDER DESCRIPTION"
--   ended:SESSION   tombstone, for a while
--   sessions        hash: session -> username, of those that have something published
--   totals          hash: files -> how many there are; order -> the newest ORDER
local KEYS_EACH, ARGS_EACH = 4, 6
local TOMBSTONE = 300000

local function apply(k, a)
  local files, ended, sessions, totals = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
  local operation, session, username = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  local filename, description, limit = ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  if operation == 'end' then
    changed = true
    local count = redis.call('HLEN', files)
    if count > 0 then
      redis.call('UNLINK', files)
      redis.call('HDEL', sessions, session)
      redis.call('HINCRBY', totals, 'files', -count)
    end
    redis.call('SET', ended, '', 'PX', TOMBSTONE)
    return '+'
  end
  if redis.call('EXISTS', ended) == 1 then return '-SESSION_ENDED' end
  if operation == 'publish' then
    if redis.call('HEXISTS', files, filename) == 1 then return '-FILE_EXISTS' end
    local count = redis.call('HLEN', files)
    if count >= tonumber(limit) then return '-TOO_MANY_FILES' end
    changed = true
    local order = redis.call('HINCRBY', totals, 'order', 1)
    redis.call('HSET', files, filename, order .. ' ' .. description)
    redis.call('HINCRBY', totals, 'files', 1)
    if count == 0 then redis.call('HSET', sessions, session, username) end
    return '+'
  end
  if redis.call('HDEL', files, filename) == 0 then return '-FILE_NOT_FOUND' end
  changed = true
  redis.call('HINCRBY', totals, 'files', -1)
  if redis.call('HLEN', files) == 0 then redis.call('HDEL', sessions, session) end
  return '+'
end
