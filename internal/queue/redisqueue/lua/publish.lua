-- Appends records to a stream: all of them, or none. KEYS: the stream. ARGV after what append.lua takes: the number of
-- records, their bytes, the records.
local n = tonumber(ARGV[4])
local no = refusal(KEYS[1], n, tonumber(ARGV[5]))
if no then return no end
local _, last = append(KEYS[1], 6, n)
if n == 1 then redis.pcall('XSETID', KEYS[1], last) end -- changes nothing; see append.lua
return {'done'}
