-- Changes users and sessions. The keys of a shard:
--   users     hash: username -> id of the user's session, or empty
--   online    hash: username -> "ORDER ID IPV4 PORT" for users that have a session, and behind that
--             " DIALECT" if a dialect was noted
--   revision  the ORDER of the newest change of a session
--   owners    hash: username -> IPV4, for users that belong to an address
--   checks    hash: username -> "ID AT REACHED REFUSALS" for sessions whose peers were dialled: when the
--             last check began, when the peer was last reached (0 is never), how often it refused since
-- An ORDER is a time in microseconds of the Unix epoch, and more than every ORDER before.
local KEYS_EACH, ARGS_EACH = 5, 5

local function advance(revision)
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local next = math.max(now, tonumber(redis.call('GET', revision) or 0) + 1)
  next = string.format('%.0f', next)
  redis.call('SET', revision, next)
  return next
end

local function apply(k, a)
  local users, online, revision, owners = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
  local checks = KEYS[k + 4]
  local operation, username, id, detail = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  -- Who may ask: empty is anyone, `at IPV4` the address in the session, `owner IPV4` the user's owner.
  local rule, asker = ARGV[a + 4]:match('^(%a+) (.+)$')
  if operation == 'register' then
    if redis.call('HSETNX', users, username, '') == 0 then return '-USER_EXISTS' end
    changed = true
    if rule == 'owner' then redis.call('HSET', owners, username, asker) end
    return '+'
  end
  local session = redis.call('HGET', users, username)
  if operation == 'check' then
    -- `detail` is the record that the caller has seen, and the last argument the one to come.
    if session ~= id or (redis.call('HGET', checks, username) or '') ~= detail then return '+' end
    changed = true
    redis.call('HSET', checks, username, ARGV[a + 4])
    return '+' .. id
  end
  if not session then return '-USER_NOT_FOUND' end
  if operation == 'free' then
    changed = true
    redis.call('HDEL', owners, username)
    return '+'
  end
  if session == '' and (operation == 'note' or operation == 'close') then return '-SESSION_NOT_FOUND' end
  if asker then
    local owner = rule == 'owner' and redis.call('HGET', owners, username)
    if not owner and session ~= '' then
      owner = redis.call('HGET', online, username):match('^%S+ %S+ (%S+)')
    end
    if owner and owner ~= asker then return '-NOT_OWNER' end
  end
  if operation == 'open' then
    if session ~= '' then return '-SESSION_EXISTS' end
    changed = true
    if rule == 'owner' then redis.call('HSET', owners, username, asker) end
    redis.call('HSET', users, username, id)
    redis.call('HSET', online, username, advance(revision) .. ' ' .. id .. ' ' .. detail)
    return '+'
  end
  if operation == 'restore' then
    if session ~= '' then return '-SESSION_EXISTS' end
    changed = true
    redis.call('HSET', users, username, id)
    redis.call('HSET', online, username, detail)
    redis.call('SET', revision, detail:match('^%d+'))
    return '+'
  end
  if operation == 'note' then
    local before = redis.call('HGET', online, username)
    local record = before:match('^%S+ %S+ %S+ %S+') .. (detail == '' and '' or ' ' .. detail)
    if record ~= before then
      changed = true
      redis.call('HSET', online, username, record)
    end
    return '+'
  end
  -- What is left ends the session, and `id` says which may end: empty is any.
  if id ~= '' and id ~= session then return '-SESSION_ENDED' end
  changed = true
  if session ~= '' then
    redis.call('HDEL', online, username)
    redis.call('HDEL', checks, username)
    advance(revision)
  end
  if operation == 'close' then
    redis.call('HSET', users, username, '')
  else
    redis.call('HDEL', users, username)
    redis.call('HDEL', owners, username)
  end
  return '+' .. session
end
