-- List a run that is about to be created, unless a map that it needs is closed.
-- KEYS[1] bucketline:runs                        set, names of runs; permanent
-- KEYS[2] bucketline:announced:{bucketline:runs} hash, run -> its last announcement; until the run is unlisted
-- KEYS[3] bucketline:closed:{bucketline:runs}    hash, mark -> 'until_s map'; until it is opened or expired
-- ARGV    run, announcement, now, then each map that it needs
-- Times are Unix seconds.
-- Answers the maps that are closed; if there is one, the run is not listed.
local run, announcement, now = ARGV[1], ARGV[2], tonumber(ARGV[3])

local closed = {}
local marks = redis.call('HGETALL', KEYS[3])
for i = 1, #marks, 2 do
    local until_s, map = string.match(marks[i + 1], '^(%S+) (.*)$')
    if not until_s or tonumber(until_s) <= now then
        redis.call('HDEL', KEYS[3], marks[i])
    else
        closed[map] = true
    end
end
local found = {}
for i = 4, #ARGV do
    if closed[ARGV[i]] then
        found[#found + 1] = ARGV[i]
    end
end
if #found == 0 then
    redis.call('SADD', KEYS[1], run)
    redis.call('HSET', KEYS[2], run, announcement)
end
return found
