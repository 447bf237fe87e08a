-- Append events, except those that are already there, and drop the oldest if there are too many.
-- KEYS[1] bucketline:events  zset, packed event by id; permanent
-- ARGV    the least id, how many to keep, then each event, packed
-- No times. An id is an integer up to 2^53, which a score represents exactly.
-- Answers the number of events appended.
local id, num_kept, num_new = math.max(tonumber(ARGV[1]) - 1, 0), tonumber(ARGV[2]), 0
local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if newest[2] and tonumber(newest[2]) > id then
    id = tonumber(newest[2])
end
for i = 3, #ARGV do
    if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
        id = id + 1
        num_new = num_new + 1
        redis.call('ZADD', KEYS[1], string.format('%.0f', id), ARGV[i])
    end
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -num_kept - 1)
return num_new
