#!lua
-- Stores a batch of records, and returns how many of them were stored already. The keys:
--   records  stream with an entry for each batch: the id of an entry is the number of the first
--            record, the field `r` has the records one after the other, each with its length
--   newest   number of the newest record
--   writers  hash: writer -> "NUMBER SECONDS": the writer's number of its newest record, and when
--            this record was stored
-- ARGV: writer, the writer's number of the batch's first record, number of records to keep,
-- records...
local records, newest, writers = KEYS[1], KEYS[2], KEYS[3]
local writer, first, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local count = #ARGV - 3
local DAY = 24 * 3600

local mark = redis.call('HGET', writers, writer)
local stored = mark and tonumber(string.match(mark, '^%d+')) or 0
local known = math.min(math.max(stored + 1 - first, 0), count)
if known == count then return known end

local number = tonumber(redis.call('GET', newest) or 0)
local last = number + count - known
local trim = string.format('%.0f', math.max(last - keep + 1, 1))
redis.call('XADD', records, 'MINID', trim, string.format('%.0f', number + 1), 'r',
  table.concat(ARGV, '', 4 + known))
redis.call('SET', newest, string.format('%.0f', last))
local now = redis.call('TIME')[1]
redis.call('HSET', writers, writer, string.format('%.0f %s', first + count - 1, now))
if redis.call('HLEN', writers) > 256 then
  local all = redis.call('HGETALL', writers)
  for i = 1, #all, 2 do
    if now - string.match(all[i + 1], '%d+$') > DAY then redis.call('HDEL', writers, all[i]) end
  end
end
return known
