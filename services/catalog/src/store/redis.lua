-- Changes what sessions have published. The keys of a shard:
--   files:SESSION   hash: filename -> "ORDER DESCRIPTION"
--   ended:SESSION   tombstone of a session that has ended
--   sessions        hash: session -> username, for sessions that have something published
--   totals          hash: files -> number of files; order -> the newest ORDER;
--                   changes -> number of the newest change
--   changes         stream of the newest changes, for search: the id of an entry is the
--                   number of the change, the first field of an entry is the operation
-- An ORDER is a time in microseconds of the Unix epoch, and more than every ORDER before.
local KEYS_EACH, ARGS_EACH = 5, 6
-- How long a tombstone stays, in milliseconds.
local TOMBSTONE = 300000
-- About how many changes the stream keeps. A replica that falls further behind reads everything
-- again.
local CHANGES = 4096

local function next_order(totals)
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local next = math.max(now, tonumber(redis.call('HGET', totals, 'order') or 0) + 1)
  next = string.format('%.0f', next)
  redis.call('HSET', totals, 'order', next)
  return next
end

local function note(changes, totals, ...)
  local id = string.format('%.0f-0', redis.call('HINCRBY', totals, 'changes', 1))
  redis.pcall('XADD', changes, 'MAXLEN', '~', CHANGES, id, ...)
end

local function apply(k, a)
  local files, ended, sessions, totals, changes = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4]
  local operation, session, username = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  local filename, description, limit = ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  if operation == 'end' then
    changed = true
    local count = redis.call('HLEN', files)
    if count > 0 then
      redis.call('UNLINK', files)
      redis.call('HDEL', sessions, session)
      redis.call('HINCRBY', totals, 'files', -count)
      note(changes, totals, 'end', session)
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
    local order = next_order(totals)
    redis.call('HSET', files, filename, order .. ' ' .. description)
    redis.call('HINCRBY', totals, 'files', 1)
    if count == 0 then redis.call('HSET', sessions, session, username) end
    note(changes, totals, 'publish', session, 'username', username, 'filename', filename,
      'order', order, 'description', description)
    return '+'
  end
  if redis.call('HDEL', files, filename) == 0 then return '-FILE_NOT_FOUND' end
  changed = true
  redis.call('HINCRBY', totals, 'files', -1)
  if redis.call('HLEN', files) == 0 then redis.call('HDEL', sessions, session) end
  note(changes, totals, 'delete', session, 'filename', filename)
  return '+'
end
