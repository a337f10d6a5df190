-- Writes records, dead letters and cursor, if this writer still holds the pipeline: all of it, or nothing.
-- KEYS: the topic's stream, its dead letters' stream, the cursor's hash. ARGV after what append.lua takes: the writer,
-- the name of this commit and of the one before it, the cursor, number and bytes of records, number and bytes of dead
-- letters, the records, the dead letters.
local writer, commit, before = ARGV[4], ARGV[5], ARGV[6]
local held = redis.call('HMGET', KEYS[3], 'writer', 'epoch', 'commit')
if held[1] ~= writer then return {'fenced', held[2] or '0'} end
if held[3] == commit then
  -- An earlier try came through. This is written again so that a WAIT behind it covers that try too.
  redis.call('HSET', KEYS[3], 'commit', commit)
  return {'done'}
end
if (held[3] or '') ~= before then return {'other', held[3] or ''} end

local records, dead = tonumber(ARGV[8]), tonumber(ARGV[10])
local no = refusal(KEYS[1], records, tonumber(ARGV[9])) or refusal(KEYS[2], dead, tonumber(ARGV[11]))
if no then return no end
local p = append(KEYS[1], 12, records)
append(KEYS[2], p, dead)
redis.call('HSET', KEYS[3], 'cursor', ARGV[7])
redis.call('HSET', KEYS[3], 'commit', commit)
return {'done'}
