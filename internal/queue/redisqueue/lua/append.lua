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

-- append writes n records from ARGV[p] on, and returns what follows them, and the last id. They come in groups of records
-- that have the same headers: the number of records, '1' if they have keys, the number of names and values of the headers,
-- those, and then each record's own: data, id and key. What is the same for thousands of records is read only once.
-- Sequence numbers within a millisecond stay below 4096 (position.go): from the middle on, the next entry begins
-- the millisecond after. That is needed for large batches, and after the server's clock went back.
local function append(key, p, n)
  local call, id = redis.call, nil
  local i = 0
  while i < n do
    local m, keyed, values = tonumber(ARGV[p]), ARGV[p + 1] == '1', tonumber(ARGV[p + 2])
    local entry, own = {'XADD', key, '*', 'data', '', 'ferry-id', ''}, 2
    if keyed then entry[8], entry[9], own = 'ferry-key', '', 3 end
    local first = #entry
    for k = 1, values do entry[first + k] = ARGV[p + 2 + k] end
    p = p + 3 + values
    for _ = 1, m do
      entry[5], entry[7] = ARGV[p], ARGV[p + 1]
      if keyed then entry[9] = ARGV[p + 2] end
      id = call(unpack(entry))
      p = p + own
      i = i + 1
      if i % 2048 == 1 then
        local ms, seq = string.match(id, '^(%d+)-(%d+)$')
        if tonumber(seq) >= 2048 then
          -- Not a reason to fail half way: an entry without a position is better than half a commit.
          redis.pcall('XSETID', key, string.format('%.0f-0', tonumber(ms) + 1))
        end
      end
    end
  end
  return p, id
end
