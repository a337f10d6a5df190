-- What publish.lua and commit.lua share. Redis runs a script whole, but does not undo what it has written when it fails
-- half way: so everything that can be refused is looked at before the first write. Memory is looked at by Redis itself,
-- at the first write only.
--
-- Each of them makes two changes at least. In the append-only file Redis puts several changes of a script between MULTI
-- and EXEC, and a single one by itself. When a crash cuts the file behind a MULTI, every Redis and Valkey before 9.1.2
-- leaves that MULTI standing at its end; what is written by itself then belongs to it, and is gone at the next restart.
-- An EXEC ends it.

-- ARGV of both begins so:
local create    = ARGV[1] == '1'
local max_len   = tonumber(ARGV[2]) -- 0: no limit
local max_bytes = tonumber(ARGV[3]) -- 0: no limit

-- refusal says why the stream cannot take n more records that weigh so many bytes: nothing, or the answer to give.
local function refusal(key, n, bytes)
  if n == 0 then return end
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then
    if not create then return {'missing', key} end
    return
  end
  if kind ~= 'stream' then return {'type', key, kind} end
  if max_len > 0 then
    local len = redis.call('XLEN', key)
    if len + n > max_len then return {'full', key, len .. ' records', 'max_len=' .. ARGV[2]} end
  end
  if max_bytes > 0 then
    local used = redis.call('MEMORY', 'USAGE', key)
    if used + bytes > max_bytes then return {'full', key, used .. ' bytes', 'max_bytes=' .. ARGV[3]} end
  end
end

-- append writes n records, each as its number of values and then its values from ARGV[p] on, and returns what follows
-- them, and the last id. Sequence numbers within a millisecond stay below 4096 (position.go): from the middle on, the next entry begins
-- the millisecond after. That is needed for large batches, and after the server's clock went back.
local function append(key, p, n)
  local id
  for i = 1, n do
    local values = tonumber(ARGV[p])
    id = redis.call('XADD', key, '*', unpack(ARGV, p + 1, p + values))
    p = p + values + 1
    if i % 2048 == 1 then
      local ms, seq = string.match(id, '^(%d+)-(%d+)$')
      if tonumber(seq) >= 2048 then
        -- Not a reason to fail half way: an entry without a position is better than half a commit.
        redis.pcall('XSETID', key, string.format('%.0f-0', tonumber(ms) + 1))
      end
    end
  end
  return p, id
end
