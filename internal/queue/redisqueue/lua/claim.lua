-- Makes a writer the only one that can commit, and reads where the one before it came to.
-- KEYS: the topic's stream, the cursor's hash. ARGV: whether a missing stream will be made, the writer.
if ARGV[1] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then return {'missing', KEYS[1]} end
local epoch = redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('HSET', KEYS[2], 'writer', ARGV[2])
local held = redis.call('HMGET', KEYS[2], 'cursor', 'commit')
return {'done', tostring(epoch), held[1] or '', held[2] or ''}
