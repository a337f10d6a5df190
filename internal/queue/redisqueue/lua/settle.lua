-- Acknowledges deliveries, or gives them back. KEYS: the stream. ARGV: the group and consumer of receivers, the consumer
-- for what is given back, how long (in milliseconds) that has been idle, 'ack' or 'nack', then id and attempt of each
-- delivery. Answers with the numbers, from 1, of those that are not under way.
local wrong = {}
for i = 6, #ARGV, 2 do
  local id = ARGV[i]
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if not held or held[2] ~= ARGV[2] or held[4] ~= tonumber(ARGV[i + 1]) then
    wrong[#wrong + 1] = (i - 4) / 2
  elseif ARGV[5] == 'ack' then
    redis.call('XACK', KEYS[1], ARGV[1], id)
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, id, 'IDLE', ARGV[4], 'RETRYCOUNT', held[4], 'JUSTID')
  end
end
return wrong
