-- Walks over a stream without sending its entries. KEYS: the stream. ARGV: XRANGE or XREVRANGE, from where, how many
-- entries. Answers with the id of the last one passed ('' if none) and how many were passed.
local from, left, last, passed = ARGV[2], tonumber(ARGV[3]), '', 0
local to = ARGV[1] == 'XRANGE' and '+' or '-'
while left > 0 do
  local page = redis.call(ARGV[1], KEYS[1], from, to, 'COUNT', math.min(left, 100))
  if #page == 0 then break end
  last = page[#page][1]
  from, left, passed = '(' .. last, left - #page, passed + #page
end
return {last, passed}
